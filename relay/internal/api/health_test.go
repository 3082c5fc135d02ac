package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"testing"
)

// TestHealth shows every field over REST; latencies are left out where nothing was attempted.
func TestHealth(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	a := f.call(t, "GET", "/v1/endpoints/ep_1/health?tenant=acme", "")
	const want = `{"endpointId":"ep_1","tenant":"acme","state":"ACTIVE","breaker":"PROBING","open":{"PARKED":"7"},` +
		`"oldestOpenTime":"2023-11-14T22:13:20Z","lastFailureTime":"2023-11-14T22:13:20Z","lastFailureReason":"TIMEOUT","inFlight":2,"spans":[` +
		`{"length":"300s","attempts":"9","accepted":"8","delivered":"8","dead":"0","p50":"0.003s","p99":"1s","failures":{"TIMEOUT":"1"}},` +
		`{"length":"3600s","attempts":"0","accepted":"0","delivered":"0","dead":"0","failures":{}}],"sinceTime":"2023-11-14T22:13:20Z"}`
	var got bytes.Buffer
	if err := json.Compact(&got, []byte(a.body)); err != nil || a.code != http.StatusOK || got.String() != want {
		t.Errorf("%v: %d %s\nwant %s", err, a.code, got.String(), want)
	}
}
