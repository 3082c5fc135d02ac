// Package faults_test holds Sealpost against what goes wrong around it: receivers that hang, trickle, reset and lie; a disk that
// runs full, loses power, or does not give what was written to it; a Redis that is emptied, stopped, slow or full; clocks that are set back and forth; stops under load. Each test prints what it counted, and can be run alone:
//
//	go test -v -run TestReceivers ./test/faults          about 1,000 attempts; -attempts and -long make it more
//	go test -v -run TestReceiverChanges ./test/faults    names and certificates that are others at the next attempt
//	go test -v -run TestPoison ./test/faults
//	go test -v -run TestDiskFull ./test/faults
//	go test -v -run TestPowerLoss ./test/faults          three tests; -rounds sets how often, they need /dev/fuse
//	go test -v -run TestReadErrors ./test/faults
//	go test -v -run "TestRedis|TestOutcomesFull" ./test/faults   six tests; -without sets for how long it is stopped
//	go test -v -run TestClockSteps ./test/faults
//	go test -v -run TestGracefulRestart ./test/faults
package faults_test

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/sealpost/sealpost/test/rig"
)

// binary is the sealpost under test; TestMain builds it.
var binary string

var long = flag.Bool("long", os.Getenv("SEALPOST_TEST_LONG") != "", "more of everything; also by SEALPOST_TEST_LONG")

var attempts = flag.Int("attempts", 0, "at receivers that misbehave; 0 is about 1,000, and -long makes it 10,000")

var without = flag.Duration("without", 5*time.Second, "how long the view is away where it is stopped; -long makes it a minute")

var rounds = flag.Int("rounds", 0, "losses of power in each test of them; 0 is the default")

func TestMain(m *testing.M) {
	flag.Parse()
	if mayMount() {
		if err := private(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(rig.Main(m, &binary))
}
