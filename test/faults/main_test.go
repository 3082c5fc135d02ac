// Package faults_test holds Sealpost against what goes wrong around it: receivers that hang, trickle, reset and lie; a disk that
// runs full; clocks that are set back and forth; stops under load. Each test prints what it counted, and can be run alone:
//
//	go test -v -run TestReceivers ./test/faults          about 1,000 attempts; -long makes it 10,000
//	go test -v -run TestDiskFull ./test/faults
//	go test -v -run TestClockSteps ./test/faults
//	go test -v -run TestGracefulRestart ./test/faults
package faults_test

import (
	"flag"
	"os"
	"testing"

	"github.com/sealpost/sealpost/test/rig"
)

// binary is the sealpost under test; TestMain builds it.
var binary string

var long = flag.Bool("long", os.Getenv("SEALPOST_TEST_LONG") != "", "more of everything; also by SEALPOST_TEST_LONG")

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(rig.Main(m, &binary))
}
