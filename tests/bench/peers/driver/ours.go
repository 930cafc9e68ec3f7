package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of protos/backhaul/v1.
const (
	requestEvents  = 1
	replyErrorCode = 4
	eventTime      = 4
	persistenceID  = 5
	eventType      = 9
	eventCodec     = 10
	eventPayload   = 11
)

const (
	appendPath       = "/backhaul.v1.Intake/Append"
	appendStreamPath = "/backhaul.v1.Intake/AppendStream"
)

// rawCodec leaves bytes as they are: messages are written here, as a generated client would.
type rawCodec struct{}

func (rawCodec) Name() string                        { return "proto" }
func (rawCodec) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }
func (rawCodec) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = bytes.Clone(data)
	return nil
}

func appendRequest(name string, number int, due time.Time, isTimed bool) []byte {
	var events []byte
	if isTimed {
		events = protowire.AppendTag(events, eventTime, protowire.BytesType)
		events = protowire.AppendBytes(events, protowire.AppendVarint(nil, uint64(due.UnixMicro())))
	}
	for _, column := range []struct {
		field protowire.Number
		value []byte
	}{
		{persistenceID, fmt.Appendf(nil, "Sensor|%s-%d", name, entity(number))},
		{eventType, []byte("TemperatureRead")},
		{eventCodec, []byte("json")},
		{eventPayload, payload(number, due)},
	} {
		events = protowire.AppendTag(events, column.field, protowire.BytesType)
		events = protowire.AppendBytes(events, column.value)
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, requestEvents, protowire.BytesType), events)
}

// refusal is the code of a reply that refuses, or nil.
func refusal(reply []byte) error {
	for len(reply) > 0 {
		field, kind, size := protowire.ConsumeTag(reply)
		if size < 0 {
			return protowire.ParseError(size)
		}
		reply = reply[size:]
		if field == replyErrorCode {
			code, _ := protowire.ConsumeString(reply)
			return fmt.Errorf("refused: %s", code)
		}
		if size = protowire.ConsumeFieldValue(field, kind, reply); size < 0 {
			return protowire.ParseError(size)
		}
		reply = reply[size:]
	}
	return nil
}

func dialOurs(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
}

type grpcCaller struct {
	connection *grpc.ClientConn
	name       string
}

func openGrpcCaller(task Task, caller int) (Caller, error) {
	connection, err := dialOurs(task.Edge)
	return grpcCaller{connection, fmt.Sprintf("grpc-%d", caller)}, err
}

func (caller grpcCaller) Append(number int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	request, reply := appendRequest(caller.name, number, time.Now(), false), []byte{}
	if err := caller.connection.Invoke(ctx, appendPath, &request, &reply); err != nil {
		return err
	}
	return refusal(reply)
}

type grpcPublisher struct {
	stream  grpc.ClientStream
	replies chan error
	sent    *int
}

func openGrpcPublisher(task Task) (Publisher, error) {
	connection, err := dialOurs(task.Edge)
	if err != nil {
		return nil, err
	}
	stream, err := connection.NewStream(context.Background(),
		&grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, appendStreamPath)
	if err != nil {
		return nil, err
	}
	publisher := grpcPublisher{stream, make(chan error, 1), new(int)}
	go publisher.hear()
	return publisher, nil
}

func (publisher grpcPublisher) hear() {
	var failure error
	for {
		reply := []byte{}
		if err := publisher.stream.RecvMsg(&reply); err == io.EOF {
			break
		} else if err != nil {
			failure = err
			break
		}
		if err := refusal(reply); err != nil && failure == nil {
			failure = err
		}
	}
	publisher.replies <- failure
}

func (publisher grpcPublisher) Publish(number int, due time.Time) error {
	request := appendRequest("schedule", number, due, true)
	return publisher.stream.SendMsg(&request)
}

func (publisher grpcPublisher) Flush() error {
	if err := publisher.stream.CloseSend(); err != nil {
		return err
	}
	return <-publisher.replies
}

type httpCaller struct {
	client *http.Client
	url    string
	name   string
}

func openHttpCaller(task Task, caller int) (Caller, error) {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	return httpCaller{client, "http://" + task.Edge + "/v1/events", fmt.Sprintf("http-%d", caller)}, nil
}

func (caller httpCaller) Append(number int) error {
	body := fmt.Appendf(nil, `{"events":[{"entity_type":"Sensor","entity_id":"%s-%d","event_type":"TemperatureRead","payload":%s}]}`,
		caller.name, entity(number), payload(number, time.Now()))
	answer, err := caller.client.Post(caller.url, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode/100 != 2 {
		err = fmt.Errorf("status %d: %s", answer.StatusCode, said)
	}
	return err
}
