// The cases in which one contender at a time can hold something: a lock, or the leadership.
package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/clientv3/concurrency"
)

// The time to live of every lease, in seconds; the same as in src/work.rs.
const ttl = 60

// The time to live of the leases of idle contenders, in seconds; the same as in src/cases/idle.rs.
const idleTTL = 6

// A time during which one contender held it, in nanoseconds since the start signal.
type hold struct {
	Who   int   `json:"who"`
	From  int64 `json:"from"`
	Until int64 `json:"until"`
}

// A client that wants to hold it.
type contender struct {
	acquire func()
	release func()
}

// The same as in src/cases/lock_uncontended.rs.
func lockUncontended(address string, parameters []string) {
	one := open(address, 1, locker)[0]
	cycle := caller{call: func() {
		one.acquire()
		one.release()
	}}
	measure([]caller{cycle}, milliseconds(parameters[0]))
}

func locker(session *concurrency.Session) contender {
	mutex := concurrency.NewMutex(session, "/lock")
	return contender{func() { must(mutex.Lock(context.Background())) }, func() { must(mutex.Unlock(context.Background())) }}
}

// The same as in src/cases/idle.rs: each session holds a lock of its own, and then releases it.
func idleLocks(address string, parameters []string) {
	client := connect(address)
	idle := milliseconds(parameters[1])
	var mutexes []*concurrency.Mutex
	for i := 0; i < number(parameters[0]); i++ {
		session, err := concurrency.NewSession(client, concurrency.WithTTL(idleTTL))
		must(err)
		mutexes = append(mutexes, concurrency.NewMutex(session, fmt.Sprintf("/locks/%d", i)))
		must(mutexes[i].Lock(context.Background()))
	}
	meter := ready()
	time.Sleep(idle)
	meter.report(len(mutexes))
	for _, mutex := range mutexes {
		must(mutex.Unlock(context.Background()))
	}
	time.Sleep(3 * time.Second)
	meter = ready()
	time.Sleep(idle)
	meter.report(len(mutexes))
}

// The same as in src/cases/lock_hand_over.rs.
func lockHandOver(address string, parameters []string) {
	contenders := open(address, number(parameters[0]), locker)
	contention := milliseconds(parameters[1])
	meter := ready()
	done := make(chan []hold)
	for who, one := range contenders {
		go func(who int, one contender) {
			var holds []hold
			for meter.elapsed() < contention {
				one.acquire()
				from := meter.elapsed()
				until := meter.elapsed()
				one.release()
				holds = append(holds, hold{who, from.Nanoseconds(), until.Nanoseconds()})
			}
			done <- holds
		}(who, one)
	}
	var all []hold
	for range contenders {
		all = append(all, <-done...)
	}
	meter.report(all)
}

// The same as in src/cases/election_hand_over.rs.
func electionHandOver(address string, parameters []string) {
	var waits []time.Duration
	for _, wait := range strings.Split(parameters[0], ",") {
		waits = append(waits, time.Duration(number(wait))*time.Microsecond)
	}
	candidates := open(address, 2, func(session *concurrency.Session) contender {
		election := concurrency.NewElection(session, "/election")
		return contender{func() { must(election.Campaign(context.Background(), "me")) }, func() { must(election.Resign(context.Background())) }}
	})
	meter := ready()
	var holds []hold
	leader := 0
	candidates[leader].acquire()
	from := meter.elapsed()
	elected := make(chan time.Duration)
	for _, wait := range waits {
		follower := 1 - leader
		go func() {
			candidates[follower].acquire()
			elected <- meter.elapsed()
		}()
		time.Sleep(wait)
		holds = append(holds, hold{leader, from.Nanoseconds(), meter.elapsed().Nanoseconds()})
		candidates[leader].release()
		from = <-elected
		leader = follower
	}
	holds = append(holds, hold{leader, from.Nanoseconds(), meter.elapsed().Nanoseconds()})
	candidates[leader].release()
	meter.report(holds)
}

// Opens a session for each contender and warms it up. All share one connection, because with a
// connection each, hand-overs are no faster and cost more.
func open(address string, count int, contend func(*concurrency.Session) contender) []contender {
	client := connect(address)
	var contenders []contender
	for i := 0; i < count; i++ {
		session, err := concurrency.NewSession(client, concurrency.WithTTL(ttl))
		must(err)
		contenders = append(contenders, contend(session))
	}
	warmUp(contenders)
	return contenders
}

// The same as in src/peers.rs.
func warmUp(contenders []contender) {
	done := make(chan bool)
	for _, one := range contenders {
		go func(one contender) {
			one.acquire()
			one.release()
			done <- true
		}(one)
	}
	for range contenders {
		<-done
	}
}
