package journal

import (
	"errors"
	"testing"
	"time"
)

func TestMajorityHeard(t *testing.T) {
	t.Parallel()
	const s = time.Second
	for _, c := range []struct {
		name, answer string
		ago          time.Duration
		err          error
	}{
		{"one server", `{"config":{}}`, 0, nil},
		{"one replica of a cluster", `{"cluster":{"leader":"a"}}`, 0, nil},
		{"all three", `{"cluster":{"leader":"a","replicas":[{"current":true,"active":5},{"current":true,"active":7}]}}`, 5, nil},
		{"one of two others is gone", `{"cluster":{"leader":"a","replicas":[{"active":60000000000},{"current":true,"active":1000000000}]}}`, s, nil},
		{"both are", `{"cluster":{"leader":"a","replicas":[{"current":true,"active":60000000000},{"current":true,"active":8000000000}]}}`, 8 * s, nil},
		{"two of five are", `{"cluster":{"leader":"a","replicas":[{"active":9000000000},{"active":1000000000},{"active":9000000000},{"active":2000000000}]}}`, 2 * s, nil},
		{"three of five are", `{"cluster":{"leader":"a","replicas":[{"active":9000000000},{"active":1000000000},{"active":9000000000},{"active":7000000000}]}}`, 7 * s, nil},
		{"a leader that heard nobody yet", `{"cluster":{"leader":"a","replicas":[{"offline":true},{"offline":true}]}}`, 0, ErrUnavailable},
		{"one that heard the one that counts just now", `{"cluster":{"leader":"a","replicas":[{"offline":true},{"current":true}]}}`, 0, nil},
		{"no leader", `{"cluster":{"replicas":[{"active":1},{"active":1},{"active":1}]}}`, 0, ErrUnavailable},
		{"a server that knows of none", `{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`, 0, ErrUnavailable},
		{"no such stream", `{"error":{"code":404,"err_code":10059,"description":"stream not found"}}`, 0, ErrUnavailable},
		{"garbage", `{"cluster":`, 0, ErrUnavailable},
	} {
		if ago, err := parseHeard([]byte(c.answer)); ago != c.ago || !errors.Is(err, c.err) {
			t.Errorf("%s: heard %v ago, %v; want %v, %v", c.name, ago, err, c.ago, c.err)
		}
	}
}

// What nobody can parse is no sign of life, and no time is before the answer was asked for by less than none.
func FuzzHeard(f *testing.F) {
	f.Add([]byte(`{"cluster":{"leader":"a","replicas":[{"current":true,"active":5}]}}`))
	f.Add([]byte(`{"error":{"err_code":10008}}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		ago, err := parseHeard(answer)
		if ago < 0 || ago > 0 && err != nil {
			t.Errorf("%v, %v", ago, err)
		}
	})
}
