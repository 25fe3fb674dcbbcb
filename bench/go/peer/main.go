// Go's client beside ours, for spec/04-consul/semaphore_interop_spec.lua: takes a lock or a slot, says "in", waits until
// a file is there or the lock is lost ("lost"), gives back and says "out".
//
//	peer lock KEY FILE
//	peer slot PREFIX LIMIT FILE [WAIT]      WAIT, as in 500ms: gives up after that ("no")
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/hashicorp/consul/api"
)

type holder interface {
	take() (<-chan struct{}, error)
	give() error
}

type lock struct{ *api.Lock }

func (l lock) take() (<-chan struct{}, error) { return l.Lock.Lock(nil) }
func (l lock) give() error                    { return l.Unlock() }

type slot struct{ *api.Semaphore }

func (s slot) take() (<-chan struct{}, error) { return s.Acquire(nil) }
func (s slot) give() error                    { return s.Release() }

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func make_slot(client *api.Client, args []string) holder {
	limit, err := strconv.Atoi(args[1])
	check(err)
	options := &api.SemaphoreOptions{Prefix: args[0], Limit: limit}
	if len(args) > 3 {
		options.SemaphoreTryOnce = true
		options.SemaphoreWaitTime, err = time.ParseDuration(args[3])
		check(err)
	}
	semaphore, err := client.SemaphoreOpts(options)
	check(err)
	return slot{semaphore}
}

func until(file string, lost <-chan struct{}) {
	for {
		select {
		case <-lost:
			fmt.Println("lost")
			return
		case <-time.After(20 * time.Millisecond):
			if _, err := os.Stat(file); err == nil {
				return
			}
		}
	}
}

func main() {
	client, err := api.NewClient(api.DefaultConfig())
	check(err)
	file, holder := os.Args[3], holder(nil)
	if os.Args[1] == "lock" {
		key, err := client.LockKey(os.Args[2])
		check(err)
		holder = lock{key}
	} else {
		file, holder = os.Args[4], make_slot(client, os.Args[2:])
	}
	lost, err := holder.take()
	check(err)
	if lost == nil {
		fmt.Println("no")
		return
	}
	fmt.Println("in")
	until(file, lost)
	check(holder.give())
	fmt.Println("out")
}
