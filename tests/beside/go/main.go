// Command contender joins a lock or an election of the Go package concurrency. The tests run it beside
// this library.
//
//	contender ENDPOINT lock NAME TTL
//	contender ENDPOINT elect NAME TTL VALUE
//	contender ENDPOINT observe NAME
//
// It prints "holds KEY" when it holds the lock or leads, and "leader VALUE" for each leader that it
// observes. When its standard input ends, it releases and prints "released".
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 3 {
		return fmt.Errorf("usage: contender ENDPOINT lock|elect|observe NAME [TTL [VALUE]]")
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{args[0]}})
	if err != nil {
		return err
	}
	defer client.Close()
	ttl := 60
	if len(args) > 3 {
		if ttl, err = strconv.Atoi(args[3]); err != nil {
			return err
		}
	}
	session, err := concurrency.NewSession(client, concurrency.WithTTL(ttl))
	if err != nil {
		return err
	}
	defer session.Close()

	ctx := context.Background()
	switch args[1] {
	case "lock":
		mutex := concurrency.NewMutex(session, args[2])
		if err := mutex.Lock(ctx); err != nil {
			return err
		}
		fmt.Println("holds", mutex.Key())
		waitForEnd()
		if err := mutex.Unlock(ctx); err != nil {
			return err
		}
	case "elect":
		election := concurrency.NewElection(session, args[2])
		if err := election.Campaign(ctx, args[4]); err != nil {
			return err
		}
		fmt.Println("holds", election.Key())
		waitForEnd()
		if err := election.Resign(ctx); err != nil {
			return err
		}
	case "observe":
		election := concurrency.NewElection(session, args[2])
		for answer := range election.Observe(ctx) {
			for _, kv := range answer.Kvs {
				fmt.Println("leader", string(kv.Value))
			}
		}
		return fmt.Errorf("the observation ended")
	default:
		return fmt.Errorf("%q is neither lock nor elect nor observe", args[1])
	}
	fmt.Println("released")
	return nil
}

func waitForEnd() {
	_, _ = io.Copy(io.Discard, os.Stdin)
}
