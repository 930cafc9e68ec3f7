package main

import (
	"fmt"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

const (
	atLeastOnce = 1
	mqttPending = 1000
	mqttWait    = 30 * time.Second
)

func mqttClient(address, name string) (mqtt.Client, error) {
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + address).SetClientID(name).SetOrderMatters(true))
	return client, settled(client.Connect())
}

func settled(token mqtt.Token) error {
	if !token.WaitTimeout(mqttWait) {
		return fmt.Errorf("the broker did not answer within %s", mqttWait)
	}
	return token.Error()
}

func topic(number int) string { return fmt.Sprintf("ev/sensor/%d", entity(number)) }

type mqttCaller struct{ client mqtt.Client }

func openMqttCaller(task Task, caller int) (Caller, error) {
	client, err := mqttClient(task.Edge, fmt.Sprintf("caller-%d", caller))
	return mqttCaller{client}, err
}

func (caller mqttCaller) Append(number int) error {
	return settled(caller.client.Publish(topic(number), atLeastOnce, false, payload(number, time.Now())))
}

type mqttPublisher struct {
	client  mqtt.Client
	pending chan mqtt.Token
	done    chan error
}

func openMqttPublisher(task Task) (Publisher, <-chan float64, error) {
	client, err := mqttClient(task.Edge, "publisher")
	if err != nil {
		return nil, nil, err
	}
	publisher := mqttPublisher{client, make(chan mqtt.Token, mqttPending), make(chan error, 1)}
	go publisher.hear()
	if task.Cloud == "" {
		return publisher, nil, nil
	}
	received := make(chan float64, mqttPending)
	_, err = mqttConsumer(task.Cloud, func(message []byte) {
		now := time.Now()
		if due, err := dueOf(message); err == nil {
			received <- now.Sub(due).Seconds()
		}
	})
	return publisher, received, err
}

func mqttConsumer(address string, take func([]byte)) (mqtt.Client, error) {
	client, err := mqttClient(address, "consumer")
	if err != nil {
		return nil, err
	}
	return client, settled(client.Subscribe("ev/#", atLeastOnce, func(_ mqtt.Client, message mqtt.Message) {
		take(message.Payload())
	}))
}

func (publisher mqttPublisher) hear() {
	var failure error
	for token := range publisher.pending {
		if err := settled(token); err != nil && failure == nil {
			failure = err
		}
	}
	publisher.done <- failure
}

func (publisher mqttPublisher) Publish(number int, due time.Time) error {
	publisher.pending <- publisher.client.Publish(topic(number), atLeastOnce, false, payload(number, due))
	return nil
}

func (publisher mqttPublisher) Flush() error {
	close(publisher.pending)
	return <-publisher.done
}

// drainMqtt counts what a bridge that was cut off brings, and answers with the rate from the first to the last event.
func drainMqtt(task Task) error {
	counts := make(chan time.Time, mqttPending)
	if _, err := mqttConsumer(task.Cloud, func([]byte) { counts <- time.Now() }); err != nil {
		return err
	}
	answer("drain.ready", map[string]any{})
	var first, last time.Time
	for n := range task.Count {
		select {
		case last = <-counts:
			if n == 0 {
				first = last
			}
		case <-time.After(2 * mqttWait):
			return fmt.Errorf("%d of %d events arrived", n, task.Count)
		}
	}
	answer("result", map[string]any{"rate": float64(task.Count-1) / last.Sub(first).Seconds()})
	return nil
}
