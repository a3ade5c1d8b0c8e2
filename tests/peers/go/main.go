// The peer that uses Go's client: clientv3 and its package concurrency, in the way of their
// examples. Its arguments are `work PEER ADDRESS CASE …`, as in src/work.rs, or `version`. The
// cases are in the other files.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/version"
)

// The function of each case, by name. It gets the server's address and the parameters.
var cases = map[string]func(address string, parameters []string){
	"get":                gets,
	"put":                puts,
	"load":               load,
	"directories":        directories,
	"lock-uncontended":   lockUncontended,
	"lock-hand-over":     lockHandOver,
	"idle-locks":         idleLocks,
	"election-hand-over": electionHandOver,
	"watch-latency":      watchLatency,
	"watch-live":         watchLive,
	"watch-old":          watchOld,
	"watch-fan-out":      watchFanOut,
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "version" {
		fmt.Printf("%s, %s\n", version.Version, runtime.Version())
		return
	}
	if len(os.Args) < 5 || os.Args[1] != "work" {
		fail(fmt.Errorf("usage: work PEER ADDRESS CASE …"))
	}
	work, known := cases[os.Args[4]]
	if !known {
		fail(fmt.Errorf("unknown case %s", os.Args[4]))
	}
	work(os.Args[3], os.Args[5:])
}

func connect(address string) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, DialTimeout: 10 * time.Second})
	must(err)
	return client
}

var input = bufio.NewReader(os.Stdin)

// Measures the time and the processor time of this process since the start signal.
type meter struct {
	began     time.Time
	processor time.Duration
}

// Reports that the warm-up is done, and waits for the start signal.
func ready() meter {
	fmt.Println("ready")
	waitForALine()
	return meter{time.Now(), processorTime()}
}

func (m meter) elapsed() time.Duration {
	return time.Since(m.began)
}

// Prints the report. Call it when the work is done.
func (m meter) report(found interface{}) {
	elapsed, processor := m.elapsed(), processorTime()-m.processor
	must(json.NewEncoder(os.Stdout).Encode(map[string]interface{}{
		"elapsed": elapsed.Nanoseconds(), "processor": processor.Nanoseconds(), "found": found,
	}))
	waitForALine()
}

func waitForALine() {
	_, err := input.ReadString('\n')
	must(err)
}

// The user and system time of this process.
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
