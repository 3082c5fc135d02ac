package receivers

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// LibraryLanguages are those that Ask knows libraries in.
var LibraryLanguages = []string{"node", "python", "java"}

// Libraries are those of the formats' own makers, for the schemes that have one: for each scheme their names in a language.
var Libraries = map[signer.Scheme]map[string][]string{
	signer.Standard:  {"node": {"standardwebhooks"}, "python": {"standardwebhooks"}, "java": {"standardwebhooks"}},
	signer.HubSpotV3: {"node": {"@hubspot/api-client"}, "python": {"hubspot-api-client"}},
	signer.Stripe:    {"node": {"stripe"}, "python": {"stripe"}},
	signer.GitHub:    {"node": {"@octokit/webhooks-methods", "@octokit/webhooks"}},
	signer.Shopify:   {"node": {"@shopify/shopify-api"}},
	signer.Slack:     {"node": {"@slack/bolt"}, "python": {"slack_sdk"}},
}

// Install fetches the libraries of a language where they are not there yet. That can take longer than a signature stays fresh:
// call it before signing what Ask is asked about.
func Install(t testing.TB, language string) {
	t.Helper()
	libraries(t, language)
}

// Ask gives requests to the libraries of a language, and has for each what they say of it. Its scheme's libraries have all
// said something.
func Ask(t testing.TB, language string, requests []Stored) [][]Said {
	t.Helper()
	var said [][]Said
	if language == "java" {
		said = askJava(t, requests)
	} else {
		input, err := json.Marshal(requests)
		if err != nil {
			t.Fatal(err)
		}
		out := output(t, libraries(t, language), input)
		if err := json.Unmarshal(out, &said); err != nil {
			t.Fatalf("%s: %v: %s", language, err, out)
		}
	}
	if len(said) != len(requests) {
		t.Fatalf("%s said something of %d requests, not %d", language, len(said), len(requests))
	}
	for i, r := range requests {
		var names []string
		for _, s := range said[i] {
			names = append(names, s.Library)
		}
		if want := Libraries[r.Scheme][language]; !slices.Equal(names, want) {
			t.Fatalf("%s: %v said something of %s, and not %v", language, names, r.Scheme, want)
		}
	}
	return said
}

// libraries is the program that asks a language's libraries.
func libraries(t testing.TB, language string) *exec.Cmd {
	t.Helper()
	source := filepath.Join(folder(t), language)
	switch language {
	case "node":
		// A module finds its packages beside itself.
		room := t.TempDir()
		script := filepath.Join(room, "libraries.mjs")
		err := os.WriteFile(script, read(t, filepath.Join(source, "libraries.mjs")), 0o600)
		if err == nil {
			err = os.Symlink(filepath.Join(nodePackages(t), "node_modules"), filepath.Join(room, "node_modules"))
		}
		if err != nil {
			t.Fatal(err)
		}
		return exec.Command(program(t, "node"), script)
	case "python":
		return exec.Command(pythonWithPackages(t), filepath.Join(source, "libraries.py"))
	case "java":
		jar := javaLibrary(t)
		classes := filepath.Dir(built(t, "java", "Libraries.java", "Libraries.class", program(t, "javac"), "-cp", jar, "-d", "."))
		return exec.Command(program(t, "java"), "-cp", classes+string(os.PathListSeparator)+jar, "Libraries")
	}
	t.Fatalf("there are no libraries in %q", language)
	return nil
}

// askJava speaks in lines: Java brings nothing along that reads JSON.
func askJava(t testing.TB, requests []Stored) [][]Said {
	t.Helper()
	var input bytes.Buffer
	for _, r := range requests {
		fields := []string{r.Secret, r.Fields["webhook-id"], r.Fields["webhook-timestamp"], r.Fields["webhook-signature"], base64.StdEncoding.EncodeToString(r.Body)}
		input.WriteString(strings.Join(fields, "\t") + "\n")
	}
	var said [][]Said
	for line := range strings.Lines(string(output(t, libraries(t, "java"), input.Bytes()))) {
		line = strings.TrimSpace(line)
		said = append(said, []Said{{Library: "standardwebhooks", Accepted: line == "accepted", Reason: line}})
	}
	return said
}

func output(t testing.TB, cmd *exec.Cmd, input []byte) []byte {
	t.Helper()
	var complaints bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, complaints.String())
	}
	return out
}
