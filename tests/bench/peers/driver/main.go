// Loads a peer or our own services the same way, in the same language, and measures.
//
// One argument: a task as JSON. Answers are JSON lines with an "event", as those of every measuring program here: the
// last is "result", or "failed" with the reason and exit status 1.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// PayloadBytes is the size of every event's payload.
const PayloadBytes = 200

// Task is one measurement.
type Task struct {
	Kind    string  `json:"kind"`    // appends, schedule, prepare, fill or drain
	Peer    string  `json:"peer"`    // nats, mqtt, grpc or http
	Edge    string  `json:"edge"`    // host:port that events are published to
	Cloud   string  `json:"cloud"`   // host:port of a peer's consumer
	Callers int     `json:"callers"` // of appends: closed loops, a connection each
	Seconds float64 `json:"seconds"` // of appends and schedule, after the warm-up
	WarmUp  float64 `json:"warm_up"` // seconds that do not count
	Rate    float64 `json:"rate"`    // of schedule: events a second
	Count   int     `json:"count"`   // of fill and drain: events
}

// Caller appends one event at a time and returns when it is acknowledged.
type Caller interface {
	Append(number int) error
}

// Publisher sends events without waiting for the answer to each. Flush waits for all of them.
type Publisher interface {
	Publish(number int, due time.Time) error
	Flush() error
}

func main() {
	var task Task
	if len(os.Args) != 2 {
		fail(fmt.Errorf("usage: driver TASK, as JSON"))
	}
	if err := json.Unmarshal([]byte(os.Args[1]), &task); err != nil {
		fail(err)
	}
	var err error
	switch task.Kind {
	case "appends":
		err = appends(task)
	case "schedule":
		err = schedule(task)
	case "prepare":
		if err = prepareNats(task); err == nil {
			answer("result", map[string]any{})
		}
	case "fill":
		err = fill(task)
	case "drain":
		err = drain(task)
	default:
		err = fmt.Errorf("no task %q", task.Kind)
	}
	if err != nil {
		fail(err)
	}
}

func answer(event string, fields map[string]any) {
	fields["event"] = event
	line, _ := json.Marshal(fields)
	fmt.Println(string(line))
}

func fail(err error) {
	answer("failed", map[string]any{"reason": err.Error()})
	os.Exit(1)
}

// payload begins with the moment it was due, in microseconds of UTC, and is valid JSON.
func payload(number int, due time.Time) []byte {
	out := make([]byte, 0, PayloadBytes)
	out = append(out, `{"due":"`...)
	out = append(out, fmt.Sprintf("%020d", due.UnixMicro())...)
	out = append(out, `","note":"`...)
	for n := number; len(out) < PayloadBytes-2; n = n*1103515245 + 12345 {
		out = append(out, byte('a'+(n>>16&0x7fffffff)%26))
	}
	return append(out, `"}`...)
}

func dueOf(payload []byte) (time.Time, error) {
	const first = len(`{"due":"`)
	if len(payload) < first+20 {
		return time.Time{}, fmt.Errorf("an event of %d bytes", len(payload))
	}
	us, err := strconv.ParseInt(string(payload[first:first+20]), 10, 64)
	return time.UnixMicro(us), err
}

func entity(number int) int { return number % 100 }

func openCaller(task Task, caller int) (Caller, error) {
	switch task.Peer {
	case "nats":
		return openNatsCaller(task)
	case "mqtt":
		return openMqttCaller(task, caller)
	case "grpc":
		return openGrpcCaller(task, caller)
	case "http":
		return openHttpCaller(task, caller)
	}
	return nil, fmt.Errorf("no peer %q", task.Peer)
}

// appends runs closed loops: each caller waits for its acknowledgement before the next event.
func appends(task Task) error {
	var counted atomic.Int64
	var failed atomic.Pointer[error]
	var running sync.WaitGroup
	callers := make([]Caller, task.Callers)
	for i := range callers {
		var err error
		if callers[i], err = openCaller(task, i); err != nil {
			return err
		}
	}
	begin := time.Now().Add(seconds(task.WarmUp))
	end := begin.Add(seconds(task.Seconds))
	took := make([][]float64, task.Callers)
	for i, caller := range callers {
		running.Add(1)
		go func() {
			defer running.Done()
			for number := 0; ; number++ {
				asked := time.Now()
				if err := caller.Append(number); err != nil {
					failed.Store(&err)
					return
				}
				now := time.Now()
				if now.After(end) {
					return
				}
				if asked.After(begin) {
					counted.Add(1)
					took[i] = append(took[i], now.Sub(asked).Seconds())
				}
			}
		}()
	}
	running.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	var all []float64
	for _, each := range took {
		all = append(all, each...)
	}
	if len(all) == 0 {
		return fmt.Errorf("nothing was acknowledged within %g s", task.Seconds)
	}
	answer("result", map[string]any{
		"rate":  float64(counted.Load()) / task.Seconds,
		"p50_s": percentile(all, 0.5),
		"p99_s": percentile(all, 0.99),
	})
	return nil
}

// schedule publishes event n when it is due, whatever comes of the earlier ones. Peers answer with the delays at their
// consumer; of our own services the cloud itself notes them (timed_cloud.py).
func schedule(task Task) error {
	publisher, received, err := openPublisher(task)
	if err != nil {
		return err
	}
	total := int(task.Rate * (task.WarmUp + task.Seconds))
	delays := make(chan []float64, 1)
	if received != nil {
		go func() {
			var found []float64
			quiet := time.NewTimer(seconds(task.WarmUp + task.Seconds + 30))
			for n := 0; n < total; n++ {
				select {
				case delay := <-received:
					found = append(found, delay)
				case <-quiet.C:
					n = total
				}
			}
			delays <- found
		}()
	}
	begin := time.Now().Add(200 * time.Millisecond)
	var late time.Duration
	for n := range total {
		due := begin.Add(seconds(float64(n) / task.Rate))
		time.Sleep(time.Until(due))
		late = max(late, time.Since(due))
		if err := publisher.Publish(n, due); err != nil {
			return err
		}
	}
	if err := publisher.Flush(); err != nil {
		return err
	}
	fields := map[string]any{"late_s": late.Seconds(), "count": total}
	if received != nil {
		found := <-delays
		if len(found) != total {
			return fmt.Errorf("%d of %d events arrived", len(found), total)
		}
		fields["delays_s"] = found[int(task.Rate*task.WarmUp):]
	}
	answer("result", fields)
	return nil
}

func fill(task Task) error {
	publisher, _, err := openPublisher(Task{Peer: task.Peer, Edge: task.Edge})
	if err != nil {
		return err
	}
	now := time.Now()
	for n := range task.Count {
		if err := publisher.Publish(n, now); err != nil {
			return err
		}
	}
	if err := publisher.Flush(); err != nil {
		return err
	}
	answer("result", map[string]any{})
	return nil
}

func openPublisher(task Task) (Publisher, <-chan float64, error) {
	switch task.Peer {
	case "nats":
		return openNatsPublisher(task)
	case "mqtt":
		return openMqttPublisher(task)
	case "grpc":
		publisher, err := openGrpcPublisher(task)
		return publisher, nil, err
	}
	return nil, nil, fmt.Errorf("no publisher %q", task.Peer)
}

func drain(task Task) error {
	switch task.Peer {
	case "nats":
		return drainNats(task)
	case "mqtt":
		return drainMqtt(task)
	}
	return fmt.Errorf("no peer %q", task.Peer)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func percentile(values []float64, share float64) float64 {
	sort.Float64s(values)
	return values[min(len(values)-1, int(share*float64(len(values))))]
}
