// The cases of watches. What is watched, and how it is checked, is as in src/peers/watches.rs and src/tally.rs.
package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/clientv3"
)

const directory = "/events"

var value = strings.Repeat("v", 256)

// As in src/tally.rs: every event once, in the order of revisions without a gap.
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
		fail(fmt.Errorf("event %d is %v, and the next is to be of revision %d", t.seen+1, event, t.revision))
	}
	t.leftInThis--
	t.seen++
}

func connect(address string) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, DialTimeout: 10 * time.Second})
	must(err)
	return client
}

func put(client *clientv3.Client) int64 {
	answer, err := client.Put(context.Background(), directory+"/00", value)
	must(err)
	return answer.Header.Revision
}

// Returns when the watch is there: what is written from then on is seen.
func watchKey(client *clientv3.Client) clientv3.WatchChan {
	return created(client.Watch(context.Background(), directory+"/00", clientv3.WithCreatedNotify()))
}

// The first answer says that the watch is there.
func created(answers clientv3.WatchChan) clientv3.WatchChan {
	answer := <-answers
	must(answer.Err())
	if !answer.Created {
		fail(fmt.Errorf("it is not created: %v", answer))
	}
	return answers
}

// Waits for so many events.
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

// As in src/cases/watch_latency.rs; nanoseconds.
func watchLatency(address string, warm, count int) ([]int64, time.Duration) {
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
	for i := 0; i < warm; i++ {
		once()
	}
	_, before := ready()
	latencies := make([]int64, count)
	for i := range latencies {
		latencies[i] = once()
	}
	return latencies, processorTime() - before
}

// As in src/cases/watch_events.rs. Live, the watch is there before the word to begin; else it begins at the past revision after that word.
func watchEvents(address string, events, inEach int64, since int64) (time.Duration, time.Duration) {
	client := connect(address)
	var answers clientv3.WatchChan
	t := &tally{revision: since, inEach: inEach}
	watch := func(options ...clientv3.OpOption) {
		options = append(options, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		answers = created(client.Watch(context.Background(), directory+"/", options...))
	}
	if since == 0 {
		t.revision = put(client)
		watch()
		t.revision = put(client) - 1
		follow(answers, &tally{revision: t.revision, inEach: 1}, 1)
		t.revision++
	} else {
		_, err := client.Get(context.Background(), directory)
		must(err)
	}
	began, before := ready()
	if since != 0 {
		watch(clientv3.WithRev(since + 1))
	}
	follow(answers, t, events)
	return time.Since(began), processorTime() - before
}

// As in src/cases/watch_fan_out.rs.
func watchFanOut(address string, watches int, puts int64) (opened, told, openedFor, toldFor time.Duration) {
	client := connect(address)
	revision := put(client)
	began, before := ready()
	var all sync.WaitGroup
	channels := make([]clientv3.WatchChan, watches)
	for i := range channels {
		all.Add(1)
		go func(i int) {
			defer all.Done()
			channels[i] = watchKey(client)
		}(i)
	}
	all.Wait()
	opened, openedFor = time.Since(began), processorTime()-before
	for _, answers := range channels {
		all.Add(1)
		go func(answers clientv3.WatchChan) {
			defer all.Done()
			follow(answers, &tally{revision: revision, inEach: 1}, puts)
		}(answers)
	}
	for i := int64(0); i < puts; i++ {
		put(client)
	}
	all.Wait()
	return opened, time.Since(began) - opened, openedFor, processorTime() - before - openedFor
}
