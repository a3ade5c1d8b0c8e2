// The cases of single requests, by one or by many callers at the same time.
package main

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/clientv3"
)

// The same as in src/payload.rs.
const count = 1000

var keys, values = payload()

func payload() (keys, values []string) {
	for n := 0; n < count; n++ {
		keys = append(keys, fmt.Sprintf("/requests/%04d", n))
		values = append(values, textOf(n))
	}
	return keys, values
}

func textOf(n int) string {
	return fmt.Sprintf("%0256d", n)
}

// A caller. `check` runs after all calls.
type caller struct {
	call  func()
	check func()
}

// The same as in src/cases/repeated.rs.
func measure(callers []caller, duration time.Duration) {
	callAll(callers, time.Now().Add(duration/5))
	meter := ready()
	took := callAll(callers, time.Now().Add(duration))
	meter.report(took)
	for _, one := range callers {
		if one.check != nil {
			one.check()
		}
	}
}

// Returns the nanoseconds of each call, in any order.
func callAll(callers []caller, end time.Time) []int64 {
	done := make(chan []int64)
	for _, one := range callers {
		go func(one caller) {
			var took []int64
			now := time.Now()
			for len(took) == 0 || now.Before(end) {
				began := now
				one.call()
				now = time.Now()
				took = append(took, now.Sub(began).Nanoseconds())
			}
			done <- took
		}(one)
	}
	var all []int64
	for range callers {
		all = append(all, <-done...)
	}
	return all
}

func get(client *clientv3.Client, key, value int) {
	found, err := client.Get(context.Background(), keys[key])
	must(err)
	if len(found.Kvs) != 1 || string(found.Kvs[0].Value) != values[value] {
		fail(fmt.Errorf("found %v, expected the value of number %d", found.Kvs, value))
	}
}

// The same as in src/cases/requests.rs.
func gets(address string, parameters []string) {
	client := connect(address)
	for _, callers := range []int{1, 8, 64} {
		var all []caller
		for n := 0; n < callers; n++ {
			key := n * count / callers
			all = append(all, caller{call: func() {
				key = (key + 1) % count
				get(client, key, key)
			}})
		}
		measure(all, milliseconds(parameters[0]))
	}
}

func puts(address string, parameters []string) {
	client := connect(address)
	for _, callers := range []int{1, 8, 64} {
		var all []caller
		for n := 0; n < callers; n++ {
			first, step, key, value := n, callers, n, n
			all = append(all, caller{
				call: func() {
					key += step
					if key >= count {
						key = first
					}
					value = (value + 7) % count
					_, err := client.Put(context.Background(), keys[key], values[value])
					must(err)
				},
				check: func() { get(client, key, value) },
			})
		}
		measure(all, milliseconds(parameters[0]))
	}
}

func milliseconds(text string) time.Duration {
	return time.Duration(number(text)) * time.Millisecond
}
