package journal

import (
	"context"
	"testing"
	"time"
)

// open opens a journal for the length of a test.
func open(tb testing.TB, o Options) *Journal {
	tb.Helper()
	j, err := Open(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { shut(tb, j) })
	return j
}

func shut(tb testing.TB, j *Journal) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := j.Close(ctx); err != nil {
		tb.Error(err)
	}
}
