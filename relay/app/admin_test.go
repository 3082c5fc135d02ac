package app

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Profiles are for those on this machine: an admin listener that others can reach does not have them.
func TestProfilesOnLoopbackAlone(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]int{
		"127.0.0.1:7782": http.StatusOK, "127.9.9.9:0": http.StatusOK, "localhost:7782": http.StatusOK, "[::1]:7782": http.StatusOK,
		"[::ffff:127.0.0.1]:7782": http.StatusOK,
		"0.0.0.0:7782":            http.StatusNotFound, "[::]:7782": http.StatusNotFound, ":7782": http.StatusNotFound,
		"10.0.0.1:7782": http.StatusNotFound, "localhost.example:7782": http.StatusNotFound, "": http.StatusNotFound,
	} {
		a := &App{o: Options{Admin: address}, metrics: prometheus.NewRegistry()}
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap"} {
			answer := httptest.NewRecorder()
			a.admin().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
			if answer.Code != want {
				t.Errorf("%s on %q: status %d, not %d", path, address, answer.Code, want)
			}
		}
	}
}
