package receivers

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealpost/sealpost/signer"
)

// Stored is a request as it was received.
type Stored struct {
	Scheme signer.Scheme     `json:"scheme"`
	Secret string            `json:"secret"`
	URL    string            `json:"url"`
	Fields map[string]string `json:"headers"` // names in lower case
	Body   []byte            `json:"body"`
}

// NewStored is the request with what a receiver holds of the key.
func NewStored(scheme signer.Scheme, secret, url string, h http.Header, body []byte) Stored {
	s := Stored{Scheme: scheme, Secret: secret, URL: url, Fields: map[string]string{}, Body: body}
	for name, values := range h {
		s.Fields[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	return s
}

// Said is what one library says of one request.
type Said struct {
	Library  string `json:"library"`
	Accepted bool   `json:"accepted"`
	Reason   string `json:"reason"`
}

// Libraries are those of the formats' own makers, for the schemes that have one: for each scheme its name in a language.
var Libraries = map[signer.Scheme]map[string][]string{
	signer.Standard:  {"node": {"standardwebhooks"}, "python": {"standardwebhooks"}},
	signer.HubSpotV3: {"node": {"@hubspot/api-client"}, "python": {"hubspot-api-client"}},
	signer.Stripe:    {"node": {"stripe"}, "python": {"stripe"}},
	signer.GitHub:    {"node": {"@octokit/webhooks-methods", "@octokit/webhooks"}},
	signer.Shopify:   {"node": {"@shopify/shopify-api"}},
	signer.Slack:     {"node": {"@slack/bolt"}, "python": {"slack_sdk"}},
}

// Ask gives requests to the libraries of a language, and has for each what they say of it. Its scheme's libraries have all
// said something.
func Ask(t testing.TB, language string, requests []Stored) [][]Said {
	t.Helper()
	var cmd *exec.Cmd
	switch language {
	case "node":
		// A module finds its packages beside itself.
		room := t.TempDir()
		script := filepath.Join(room, "libraries.mjs")
		err := os.WriteFile(script, read(t, filepath.Join(folder(t), "node", "libraries.mjs")), 0o600)
		if err == nil {
			err = os.Symlink(filepath.Join(nodePackages(t), "node_modules"), filepath.Join(room, "node_modules"))
		}
		if err != nil {
			t.Fatal(err)
		}
		cmd = exec.Command(program(t, "node"), script)
	case "python":
		cmd = exec.Command(pythonWithPackages(t), filepath.Join(folder(t), "python", "libraries.py"))
	default:
		t.Fatalf("there are no libraries in %q", language)
	}
	input, err := json.Marshal(requests)
	if err != nil {
		t.Fatal(err)
	}
	var complaints bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", language, err, complaints.String())
	}
	var said [][]Said
	if err := json.Unmarshal(out, &said); err != nil || len(said) != len(requests) {
		t.Fatalf("%s said of %d requests %v: %s", language, len(requests), err, out)
	}
	for i, r := range requests {
		var names []string
		for _, s := range said[i] {
			names = append(names, s.Library)
		}
		if want := Libraries[r.Scheme][language]; strings.Join(names, " ") != strings.Join(want, " ") {
			t.Fatalf("%s: %v said something of %s, and not %v", language, names, r.Scheme, want)
		}
	}
	return said
}
