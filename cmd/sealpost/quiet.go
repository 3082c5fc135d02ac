package main

import (
	"context"
	"io"
	"log"

	"github.com/redis/go-redis/v9"
)

// quietLibraries keeps libraries from printing by themselves: net/http prints what a partner sent unasked, go-redis lines
// that no log can parse. What matters of it comes back as errors.
func quietLibraries() {
	log.SetOutput(io.Discard)
	redis.SetLogger(silent{})
}

// silent is a logger of go-redis.
type silent struct{}

// Printf prints nothing.
func (silent) Printf(context.Context, string, ...any) {}
