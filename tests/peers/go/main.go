// Go's own client as a peer: clientv3 and its package concurrency, as their examples use them. It understands what src/work.rs understands:
// `work ADDRESS CASE …`; and `version`.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/clientv3/concurrency"
	"go.etcd.io/etcd/version"
)

// Of every lease, in seconds; as in src/work.rs.
const ttl = 60

var input = bufio.NewReader(os.Stdin)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "version" {
		fmt.Printf("%s, %s\n", version.Version, runtime.Version())
		return
	}
	if len(os.Args) < 4 || os.Args[1] != "work" {
		fail(fmt.Errorf("work ADDRESS CASE …"))
	}
	holds, spent := work(os.Args[2], os.Args[3], os.Args[4:])
	must(json.NewEncoder(os.Stdout).Encode(map[string]interface{}{"holds": holds, "processor": spent.Nanoseconds()}))
	_, _ = io.ReadAll(input)
}

// That somebody had the thing that only one can have at a time; nanoseconds since the word to begin.
type hold struct {
	Who   int   `json:"who"`
	From  int64 `json:"from"`
	Until int64 `json:"until"`
}

// One of those who want it.
type contender struct {
	acquire func()
	release func()
}

func work(address, name string, parameters []string) ([]hold, time.Duration) {
	switch name {
	case "lock-hand-over":
		contenders := open(address, number(parameters[0]), func(session *concurrency.Session) contender {
			mutex := concurrency.NewMutex(session, "/lock")
			return contender{func() { must(mutex.Lock(context.Background())) }, func() { must(mutex.Unlock(context.Background())) }}
		})
		return contend(contenders, time.Duration(number(parameters[1]))*time.Millisecond)
	case "election-hand-over":
		var waits []time.Duration
		for _, wait := range strings.Split(parameters[0], ",") {
			waits = append(waits, time.Duration(number(wait))*time.Microsecond)
		}
		candidates := open(address, 2, func(session *concurrency.Session) contender {
			election := concurrency.NewElection(session, "/election")
			return contender{func() { must(election.Campaign(context.Background(), "me")) }, func() { must(election.Resign(context.Background())) }}
		})
		return alternate(candidates, waits)
	}
	fail(fmt.Errorf("no case %s", name))
	return nil, 0
}

// Opens a session for each and warms them up. All share one connection: with one for each, hand-overs are no faster and cost more.
func open(address string, count int, contend func(*concurrency.Session) contender) []contender {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, DialTimeout: 10 * time.Second})
	must(err)
	var contenders []contender
	for i := 0; i < count; i++ {
		session, err := concurrency.NewSession(client, concurrency.WithTTL(ttl))
		must(err)
		contenders = append(contenders, contend(session))
	}
	warmUp(contenders)
	return contenders
}

// As in src/peers.rs.
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

// As in src/cases/lock_hand_over.rs.
func contend(contenders []contender, contention time.Duration) ([]hold, time.Duration) {
	began, before := ready()
	done := make(chan []hold)
	for who, one := range contenders {
		go func(who int, one contender) {
			var holds []hold
			for time.Since(began) < contention {
				one.acquire()
				from := time.Since(began)
				until := time.Since(began)
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
	return all, processorTime() - before
}

// As in src/cases/election_hand_over.rs.
func alternate(candidates []contender, waits []time.Duration) ([]hold, time.Duration) {
	began, before := ready()
	var holds []hold
	leader := 0
	candidates[leader].acquire()
	from := time.Since(began)
	elected := make(chan time.Duration)
	for _, wait := range waits {
		follower := 1 - leader
		go func() {
			candidates[follower].acquire()
			elected <- time.Since(began)
		}()
		time.Sleep(wait)
		holds = append(holds, hold{leader, from.Nanoseconds(), time.Since(began).Nanoseconds()})
		candidates[leader].release()
		from = <-elected
		leader = follower
	}
	holds = append(holds, hold{leader, from.Nanoseconds(), time.Since(began).Nanoseconds()})
	candidates[leader].release()
	return holds, processorTime() - before
}

// Says that everything is warm and waits for the word to begin.
func ready() (time.Time, time.Duration) {
	fmt.Println("ready")
	_, err := input.ReadString('\n')
	must(err)
	return time.Now(), processorTime()
}

// User and system time of this process.
func processorTime() time.Duration {
	var usage syscall.Rusage
	must(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func number(text string) int {
	parsed, err := strconv.Atoi(text)
	must(err)
	return parsed
}

func must(err error) {
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
