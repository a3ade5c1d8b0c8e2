// Command contender joins a lock or an election of the Go package concurrency. The tests run it beside
// this library.
//
//	contender ENDPOINT lock NAME TTL
//	contender ENDPOINT elect NAME TTL VALUE
//	contender ENDPOINT observe NAME
//	contender ENDPOINT put KEY VALUE
//	contender ENDPOINT get KEY
//
// It prints "holds KEY" when it holds the lock or leads, and "leader VALUE" for each leader that it
// observes. When its standard input ends, it releases and prints "released". It prints "value VALUE"
// for the value of a key. The environment variable LEASE is the id, in hexadecimal, of a lease for its
// session. It leaves such a lease as it is.
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
	switch args[1] {
	case "put":
		_, err := client.Put(context.Background(), args[2], args[3])
		return err
	case "get":
		answer, err := client.Get(context.Background(), args[2])
		if err != nil {
			return err
		}
		for _, kv := range answer.Kvs {
			fmt.Println("value", string(kv.Value))
		}
		return nil
	}
	ttl := 60
	if len(args) > 3 {
		if ttl, err = strconv.Atoi(args[3]); err != nil {
			return err
		}
	}
	options := []concurrency.SessionOption{concurrency.WithTTL(ttl)}
	lease, isShared := os.LookupEnv("LEASE")
	if isShared {
		id, err := strconv.ParseInt(lease, 16, 64)
		if err != nil {
			return err
		}
		options = append(options, concurrency.WithLease(clientv3.LeaseID(id)))
	}
	session, err := concurrency.NewSession(client, options...)
	if err != nil {
		return err
	}
	if isShared {
		// Close would revoke the lease.
		defer session.Orphan()
	} else {
		defer session.Close()
	}

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
