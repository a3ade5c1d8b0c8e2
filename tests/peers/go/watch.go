// The cases of watches. The watched keys are those of src/peers/watches.rs, and the checks are
// those of src/tally.rs.
package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/clientv3"
)

const directory = "/events"

var value = strings.Repeat("v", 256)

// Checks that every event arrives once, in the order of revisions and without a gap, like
// src/tally.rs.
type tally struct {
	revision   int64
	inEach     int64
	leftInThis int64
	seen       int64
}

func (t *tally) see(event *clientv3.Event) {
	if t.leftInThis == 0 {
		t.revision++
		t.leftInThis = t.inEach
	}
	if event.Kv.ModRevision != t.revision || len(event.Kv.Value) != len(value) || event.Type != clientv3.EventTypePut {
		fail(fmt.Errorf("event %d is %v, expected a put at revision %d", t.seen+1, event, t.revision))
	}
	t.leftInThis--
	t.seen++
}

func put(client *clientv3.Client) int64 {
	answer, err := client.Put(context.Background(), directory+"/00", value)
	must(err)
	return answer.Header.Revision
}

// Returns when the server has created the watch, so that it sees every later write.
func watchKey(client *clientv3.Client) clientv3.WatchChan {
	return created(client.Watch(context.Background(), directory+"/00", clientv3.WithCreatedNotify()))
}

func watchDirectory(client *clientv3.Client, options ...clientv3.OpOption) clientv3.WatchChan {
	options = append(options, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	return created(client.Watch(context.Background(), directory+"/", options...))
}

// Waits for the first answer, which says that the server has created the watch.
func created(answers clientv3.WatchChan) clientv3.WatchChan {
	answer := <-answers
	must(answer.Err())
	if !answer.Created {
		fail(fmt.Errorf("the watch was not created: %v", answer))
	}
	return answers
}

// Waits for this number of events.
func follow(answers clientv3.WatchChan, t *tally, events int64) {
	for wanted := t.seen + events; t.seen < wanted; {
		answer, open := <-answers
		if !open {
			fail(fmt.Errorf("the stream ended"))
		}
		must(answer.Err())
		for _, event := range answer.Events {
			t.see(event)
		}
	}
}

// The same as in src/cases/watch_latency.rs.
func watchLatency(address string, parameters []string) {
	client := connect(address)
	t := &tally{revision: put(client), inEach: 1}
	answers := watchKey(client)
	once := func() int64 {
		told := make(chan time.Time)
		go func() {
			follow(answers, t, 1)
			told <- time.Now()
		}()
		began := time.Now()
		put(client)
		return (<-told).Sub(began).Nanoseconds()
	}
	for i := 0; i < 50; i++ {
		once()
	}
	meter := ready()
	latencies := make([]int64, number(parameters[0]))
	for i := range latencies {
		latencies[i] = once()
	}
	meter.report(latencies)
}

// The same as in src/cases/watch_events.rs.
func watchLive(address string, parameters []string) {
	client := connect(address)
	answers := watchDirectory(client)
	revision := put(client)
	follow(answers, &tally{revision: revision - 1, inEach: 1}, 1)
	for ; len(parameters) >= 2; parameters = parameters[2:] {
		events, inEach := int64(number(parameters[0])), int64(number(parameters[1]))
		meter := ready()
		t := &tally{revision: revision, inEach: inEach}
		follow(answers, t, events)
		meter.report(t.seen)
		revision += events / inEach
	}
}

// The same as in src/cases/watch_events.rs.
func watchOld(address string, parameters []string) {
	events, since := int64(number(parameters[0])), int64(number(parameters[1]))
	client := connect(address)
	warm, cancel := context.WithCancel(context.Background())
	created(client.Watch(warm, directory+"/00", clientv3.WithCreatedNotify()))
	cancel()
	meter := ready()
	t := &tally{revision: since, inEach: 1}
	follow(watchDirectory(client, clientv3.WithRev(since+1)), t, events)
	meter.report(t.seen)
}

// The same as in src/cases/watch_fan_out.rs.
func watchFanOut(address string, parameters []string) {
	watches, puts := number(parameters[0]), int64(number(parameters[1]))
	client := connect(address)
	revision := put(client)
	meter := ready()
	var all sync.WaitGroup
	opened := make([]clientv3.WatchChan, watches)
	for i := range opened {
		all.Add(1)
		go func(i int) {
			defer all.Done()
			opened[i] = watchKey(client)
		}(i)
	}
	all.Wait()
	meter.report(len(opened))

	meter = ready()
	events := int64(0)
	for _, answers := range opened {
		all.Add(1)
		go func(answers clientv3.WatchChan) {
			defer all.Done()
			t := &tally{revision: revision, inEach: 1}
			follow(answers, t, puts)
			atomic.AddInt64(&events, t.seen)
		}(answers)
	}
	for i := int64(0); i < puts; i++ {
		put(client)
	}
	all.Wait()
	meter.report(events)
}
