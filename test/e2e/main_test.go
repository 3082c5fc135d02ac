// Package e2e_test holds the whole product against its contract, from outside: the real binary, real TCP and TLS, partners that
// accept, fail and misbehave, the view in Pebble and in a real Redis.
package e2e_test

import (
	"os"
	"testing"

	"github.com/sealpost/sealpost/store/redistest"
	"github.com/sealpost/sealpost/test/rig"
)

// binary is the sealpost that all tests run; TestMain builds it.
var binary string

func TestMain(m *testing.M) { os.Exit(rig.Main(m, &binary)) }

// eachView runs a test with the view in Pebble and in a Redis of its own.
func eachView(t *testing.T, test func(t *testing.T, view rig.Config)) {
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		test(t, nil)
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, rig.Config{"redis": redistest.Start(t).URL("e2e")})
	})
}

func start(t *testing.T, more ...rig.Config) *rig.Process {
	t.Helper()
	config := rig.Dev()
	for _, m := range more {
		config = config.With(m)
	}
	return rig.Start(t, binary, config)
}
