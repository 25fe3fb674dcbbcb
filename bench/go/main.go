// Go's client as a contender of the benchmark: reads commands, one a line, and answers each with a line of JSON
// (bench/contender.lua has the protocol).
//
//	client default   LockKey as it comes: every lock makes a session of its own
//	client shared    one session for all locks, renewed by RenewPeriodic
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sys/unix"
)

type answer map[string]any

type lock struct {
	*api.Lock
	lost <-chan struct{}
}

var (
	client   *api.Client
	session  string // the shared one, or ""
	requests atomic.Int64
	locks    = map[string][]*lock{} // of many, by prefix
	held     *lock                  // by hold
	filled   []*lock                // by fill and wait
	taken    = struct {
		sync.Mutex
		times  map[string]float64
		failed int
		why    string
	}{times: map[string]float64{}}
)

// counting counts requests, over the transport that the client would have had.
type counting struct{ http.RoundTripper }

func (c counting) RoundTrip(request *http.Request) (*http.Response, error) {
	requests.Add(1)
	return c.RoundTripper.RoundTrip(request)
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// now is the clock that all processes share.
func now() float64 {
	var ts unix.Timespec
	check(unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts))
	return float64(ts.Sec) + float64(ts.Nsec)/1e9
}

func cpu() float64 {
	var usage unix.Rusage
	check(unix.Getrusage(unix.RUSAGE_SELF, &usage))
	return float64(usage.Utime.Sec+usage.Stime.Sec) + float64(usage.Utime.Usec+usage.Stime.Usec)/1e6
}

func number(word string) float64 {
	value, err := strconv.ParseFloat(word, 64)
	check(err)
	return value
}

func duration(word string) time.Duration {
	return time.Duration(number(word) * float64(time.Second))
}

func newLock(key string) *lock {
	made, err := client.LockOpts(&api.LockOptions{Key: key, Session: session})
	check(err)
	return &lock{Lock: made}
}

func lockOf(key string) *lock {
	if locks[key] == nil {
		locks[key] = []*lock{newLock(key)}
	}
	return locks[key][0]
}

// take answers whether it was locked before stop was closed.
func (l *lock) take(stop <-chan struct{}) (bool, error) {
	lost, err := l.Lock.Lock(stop)
	l.lost = lost
	return lost != nil && err == nil, err
}

func (l *lock) isLost() bool {
	select {
	case <-l.lost:
		return true
	default:
		return false
	}
}

// after closes a channel after so many seconds.
func after(seconds string) <-chan struct{} {
	stop := make(chan struct{})
	time.AfterFunc(duration(seconds), func() { close(stop) })
	return stop
}

func over(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// cycle SECONDS KEY
func cycle(args []string) answer {
	l, count, stop := lockOf(args[1]), 0, after(args[0])
	for ; !over(stop); count++ {
		_, err := l.take(nil)
		check(err)
		check(l.Unlock())
	}
	return answer{"locks": count}
}

// many SECONDS WIDTH PREFIX AT_ONCE: each goroutine its own key, so many inside at once. What the agent refuses is
// counted, and tried again. In the end some may wait for a long poll or a lock-delay, which is not held against it:
// in_time is what was done in the time given.
func many(args []string) answer {
	var count, refused atomic.Int64
	var group sync.WaitGroup
	var why atomic.Value
	width, inside := int(number(args[1])), make(chan struct{}, int(number(args[3])))
	for len(locks[args[2]]) < width {
		key := args[2] + strconv.Itoa(len(locks[args[2]])+1)
		locks[args[2]] = append(locks[args[2]], newLock(key))
	}
	start, stop := now(), after(args[0])
	for _, l := range locks[args[2]] {
		group.Add(1)
		go func() {
			defer group.Done()
			for !over(stop) {
				inside <- struct{}{}
				ok, err := l.take(stop)
				if ok {
					count.Add(1)
					err = l.Unlock()
				}
				if err != nil {
					refused.Add(1)
					why.Store(err.Error())
				}
				<-inside
			}
		}()
	}
	<-stop
	inTime, window := count.Load(), now()-start
	group.Wait()
	return answer{"locks": count.Load(), "in_time": inTime, "window": window, "refused": refused.Load(), "why": why.Load()}
}

// hold KEY: until "free"
func hold(args []string) answer {
	held = newLock(args[0])
	_, err := held.take(nil)
	check(err)
	pair, _, err := client.KV().Get(args[0], nil)
	check(err)
	return answer{"session": pair.Session, "locks": 1}
}

func free([]string) answer {
	check(held.Unlock())
	return answer{"free": true}
}

// contend SECONDS HOLD THINK KEY: takes turns with other processes. Answers when it had it.
func contend(args []string) answer {
	l, stop, holds := lockOf(args[3]), after(args[0]), [][3]float64{}
	for !over(stop) {
		ok, err := l.take(stop)
		check(err)
		if !ok {
			break
		}
		from := now()
		time.Sleep(duration(args[1]))
		holds = append(holds, [3]float64{from, now(), 0})
		check(l.Unlock())
		time.Sleep(duration(args[2]))
	}
	return answer{"holds": holds}
}

// fill COUNT PREFIX: holds so many locks, or as many as it can.
func fill(args []string) answer {
	var next atomic.Int64
	var group sync.WaitGroup
	var why atomic.Value
	count := int64(number(args[0]))
	all := make([]*lock, count+1)
	for range 64 {
		group.Add(1)
		go func() {
			defer group.Done()
			for i := next.Add(1); i <= count && why.Load() == nil; i = next.Add(1) {
				l := newLock(args[1] + strconv.FormatInt(i, 10))
				if _, err := l.take(nil); err != nil {
					why.CompareAndSwap(nil, err.Error())
					return
				}
				all[i] = l
			}
		}()
	}
	group.Wait()
	filled = filled[:0]
	for _, l := range all {
		if l != nil {
			filled = append(filled, l)
		}
	}
	return answer{"why": why.Load()}
}

// wait COUNT PREFIX: waits for keys that another process holds.
func wait(args []string) answer {
	for i := range int(number(args[0])) {
		l, name := newLock(args[1]+strconv.Itoa(i+1)), strconv.Itoa(i+1)
		go func() {
			ok, err := l.take(nil)
			taken.Lock()
			defer taken.Unlock()
			if ok {
				taken.times[name] = now()
			} else {
				taken.failed++
				taken.why = fmt.Sprint(err)
			}
		}()
	}
	return answer{}
}

// usage: how it stands.
func usage([]string) answer {
	stillHeld := 0
	for _, l := range filled {
		if !l.isLost() {
			stillHeld++
		}
	}
	taken.Lock()
	defer taken.Unlock()
	return answer{"version": runtime.Version(), "requests": requests.Load(), "held": stillHeld,
		"taken": len(taken.times), "failed": taken.failed, "why": taken.why}
}

func times([]string) answer {
	taken.Lock()
	defer taken.Unlock()
	return answer{"times": maps.Clone(taken.times)}
}

// settle: nothing is left that a collection would free.
func settle([]string) answer {
	debug.FreeOSMemory()
	return answer{}
}

var commands = map[string]func([]string) answer{"usage": usage, "settle": settle, "cycle": cycle, "many": many,
	"hold": hold, "free": free, "contend": contend, "fill": fill, "wait": wait,
	"times": times}

func run(words []string) (result answer) {
	defer func() {
		if failure := recover(); failure != nil {
			result = answer{"error": fmt.Sprint(failure)}
		}
	}()
	return commands[words[0]](words[1:])
}

func main() {
	var err error
	config := api.DefaultConfig()
	config.HttpClient = &http.Client{Transport: counting{config.Transport}}
	client, err = api.NewClient(config)
	check(err)
	done := make(chan struct{})
	ended := make(chan struct{})
	if os.Args[1] == "shared" {
		session, _, err = client.Session().Create(&api.SessionEntry{Name: "bench-go", TTL: "15s"}, nil)
		check(err)
		go func() {
			_ = client.Session().RenewPeriodic("15s", session, nil, done)
			close(ended)
		}()
	} else {
		close(ended)
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		start, used := now(), cpu()
		result := run(strings.Fields(lines.Text()))
		result["seconds"], result["cpu"] = now()-start, cpu()-used
		result["now"], result["cpu_now"] = now(), cpu()
		line, err := json.Marshal(result)
		check(err)
		fmt.Println(string(line))
	}
	close(done)
	<-ended
}
