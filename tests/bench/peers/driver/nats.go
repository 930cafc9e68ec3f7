package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	edgeStream  = "EDGE"
	cloudStream = "CLOUD"
	leafDomain  = "leaf"
	natsPending = 4096
	natsWait    = 30 * time.Second
)

func natsStream(address string, options ...jetstream.JetStreamOpt) (jetstream.JetStream, error) {
	connection, err := nats.Connect("nats://"+address, nats.Timeout(5*time.Second))
	if err != nil {
		return nil, err
	}
	return jetstream.New(connection, options...)
}

func subject(number int) string { return fmt.Sprintf("ev.sensor.%d", entity(number)) }

// prepareNats makes the leaf's stream and, when the hub is named, its mirror there.
func prepareNats(task Task) error {
	ctx, cancel := context.WithTimeout(context.Background(), natsWait)
	defer cancel()
	leaf, err := natsStream(task.Edge)
	if err != nil {
		return err
	}
	if _, err = leaf.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: edgeStream, Subjects: []string{"ev.>"}, Storage: jetstream.FileStorage,
	}); err != nil || task.Cloud == "" {
		return err
	}
	return mirror(ctx, task.Cloud)
}

func mirror(ctx context.Context, hubAddress string) error {
	hub, err := natsStream(hubAddress)
	if err != nil {
		return err
	}
	for { // the leaf's link may still be opening
		_, err = hub.CreateStream(ctx, jetstream.StreamConfig{
			Name:    cloudStream,
			Storage: jetstream.FileStorage,
			Mirror:  &jetstream.StreamSource{Name: edgeStream, Domain: leafDomain},
		})
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

type natsCaller struct{ stream jetstream.JetStream }

func openNatsCaller(task Task) (Caller, error) {
	stream, err := natsStream(task.Edge)
	return natsCaller{stream}, err
}

func (caller natsCaller) Append(number int) error {
	ctx, cancel := context.WithTimeout(context.Background(), natsWait)
	defer cancel()
	_, err := caller.stream.Publish(ctx, subject(number), payload(number, time.Now()))
	return err
}

type natsPublisher struct{ stream jetstream.JetStream }

func openNatsPublisher(task Task) (Publisher, <-chan float64, error) {
	stream, err := natsStream(task.Edge, jetstream.WithPublishAsyncMaxPending(natsPending))
	if err != nil || task.Cloud == "" {
		return natsPublisher{stream}, nil, err
	}
	hub, err := natsStream(task.Cloud)
	if err != nil {
		return nil, nil, err
	}
	consumer, err := hub.OrderedConsumer(context.Background(), cloudStream, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverNewPolicy,
	})
	if err != nil {
		return nil, nil, err
	}
	received := make(chan float64, natsPending)
	_, err = consumer.Consume(func(message jetstream.Msg) {
		now := time.Now()
		if due, err := dueOf(message.Data()); err == nil {
			received <- now.Sub(due).Seconds()
		}
	})
	time.Sleep(500 * time.Millisecond) // the ordered consumer is made in the background
	return natsPublisher{stream}, received, err
}

func (publisher natsPublisher) Publish(number int, due time.Time) error {
	_, err := publisher.stream.PublishAsync(subject(number), payload(number, due))
	return err
}

func (publisher natsPublisher) Flush() error {
	select {
	case <-publisher.stream.PublishAsyncComplete():
		return nil
	case <-time.After(10 * natsWait):
		return fmt.Errorf("%d events were not acknowledged", publisher.stream.PublishAsyncPending())
	}
}

// drainNats makes the mirror of a leaf that holds task.Count events, and answers with its rate from the first stored.
func drainNats(task Task) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*natsWait)
	defer cancel()
	if err := mirror(ctx, task.Cloud); err != nil {
		return err
	}
	hub, err := natsStream(task.Cloud)
	if err != nil {
		return err
	}
	stream, err := hub.Stream(ctx, cloudStream)
	if err != nil {
		return err
	}
	var first time.Time
	var before uint64
	for {
		info, err := stream.Info(ctx)
		if err != nil {
			return err
		}
		stored, now := info.State.Msgs, time.Now()
		if first.IsZero() && stored > 0 {
			first, before = now, stored
		}
		if stored >= uint64(task.Count) {
			if before == stored {
				return fmt.Errorf("all %d events were there at the first look: ask for more", task.Count)
			}
			answer("result", map[string]any{"rate": float64(stored-before) / now.Sub(first).Seconds()})
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}
