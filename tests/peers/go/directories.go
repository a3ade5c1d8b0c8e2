// The cases that read a directory: the struct of 20 fields, and maps of many keys.
package main

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/clientv3"
)

type pair struct{ key, value string }

// The same as in src/cases/load.rs, with one range, which is the fastest way.
func load(address string, parameters []string) {
	var wanted []pair
	for n := 0; n < 10; n++ {
		wanted = append(wanted, pair{fmt.Sprintf("/config/number_%d", n), fmt.Sprint(10000000 + n)})
	}
	for n := 0; n < 10; n++ {
		wanted = append(wanted, pair{fmt.Sprintf("/config/text_%d", n), fmt.Sprintf("text%04d", n)})
	}
	client := connect(address)
	measure([]caller{{call: func() { below(client, "/config/", wanted) }}}, milliseconds(parameters[0]))
}

// The same as in src/cases/directories.rs.
func directories(address string, parameters []string) {
	client := connect(address)
	for _, count := range []int{1000, 10000, 100000} {
		directory := fmt.Sprintf("/directory/%d/", count)
		var wanted []pair
		for n := 0; n < count; n++ {
			wanted = append(wanted, pair{fmt.Sprintf("%s%06d", directory, n), textOf(n)})
		}
		measure([]caller{{call: func() { below(client, directory, wanted) }}}, milliseconds(parameters[0]))
	}
}

func below(client *clientv3.Client, directory string, wanted []pair) {
	found, err := client.Get(context.Background(), directory, clientv3.WithPrefix())
	must(err)
	if len(found.Kvs) != len(wanted) {
		fail(fmt.Errorf("found %d keys, expected %d", len(found.Kvs), len(wanted)))
	}
	for n, one := range found.Kvs {
		if string(one.Key) != wanted[n].key || string(one.Value) != wanted[n].value {
			fail(fmt.Errorf("found %v, expected %v", one, wanted[n]))
		}
	}
}
