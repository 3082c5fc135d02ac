// Package imports_test holds the table of who may import whom, and checks the tree against it: a new arrow is a line here that
// somebody reviews.
package imports_test

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sealpost/sealpost/"

// ours is the table: each package, from the ground up, with all of ours that it imports. Nothing imports upwards.
var ours = []struct{ name, imports string }{
	// The ground: what partners and the API's users build on.
	{"signer", ""},
	{"proto/sealpost/v1", ""},
	{"relay/chunk", ""},
	{"relay/proof", ""},
	// The vocabulary.
	{"relay", "signer"},
	{"relay/receiver", "relay/chunk signer"},
	{"relay/client", "proto/sealpost/v1 relay"},
	// Parts that know nothing of each other.
	{"relay/internal/archive", ""},
	{"relay/internal/breaker", ""},
	{"relay/internal/egress", ""},
	{"relay/internal/filter", ""},
	{"relay/internal/folder", ""},
	{"relay/internal/quota", ""},
	{"relay/internal/heap", ""},
	{"relay/internal/turn", "relay/internal/heap"},
	{"relay/internal/journal", "relay/internal/turn"},
	{"relay/internal/keys", ""},
	{"relay/internal/pki", ""},
	{"relay/internal/redact", ""},
	{"relay/internal/retry", ""},
	{"relay/internal/lane", "relay/internal/breaker relay/internal/heap"},
	{"relay/internal/owner", "relay"},
	{"relay/internal/record", "proto/sealpost/v1 relay"},
	{"relay/internal/tally", "relay"},
	{"relay/internal/alert", "relay"},
	{"relay/internal/signin", "relay"},
	// What stands on the journal: accounts, the audit log, the registry, the view's feed.
	{"relay/internal/access", "proto/sealpost/v1 relay relay/internal/journal relay/internal/keys"},
	{"relay/internal/audit", "proto/sealpost/v1 relay/internal/access relay/internal/journal relay/proof"},
	{"relay/internal/tree", "relay/internal/journal relay/internal/keys relay/proof"},
	{"relay/internal/operation", "proto/sealpost/v1 relay/internal/journal"},
	{"relay/internal/onboard", "relay relay/internal/egress"},
	{"relay/internal/registry", "proto/sealpost/v1 relay relay/internal/filter relay/internal/journal relay/internal/keys relay/internal/redact signer"},
	{"relay/internal/lease", "relay/internal/journal"},
	{"relay/internal/ledger", "relay relay/internal/journal relay/internal/record"},
	{"relay/internal/erasure", "proto/sealpost/v1 relay relay/internal/journal relay/internal/operation relay/internal/record"},
	// The path of an event: routed, carried, and the partition's owner that has both done.
	{"relay/internal/route", "relay relay/internal/filter relay/internal/registry"},
	{"relay/internal/courier", "relay relay/chunk relay/internal/egress relay/internal/pki relay/internal/retry signer"},
	{"relay/internal/partition", "relay relay/internal/alert relay/internal/breaker relay/internal/courier relay/internal/erasure relay/internal/journal relay/internal/lane relay/internal/owner " +
		"relay/internal/record relay/internal/registry relay/internal/retry relay/internal/route relay/internal/tally relay/internal/turn"},
	{"relay/internal/replay", "relay relay/internal/journal relay/internal/operation relay/internal/partition relay/internal/record relay/internal/registry"},
	// The one door, and its faces.
	{"relay/internal/control", "relay relay/internal/access relay/internal/audit relay/internal/egress relay/internal/erasure relay/internal/filter relay/internal/journal " +
		"relay/internal/onboard relay/internal/operation relay/internal/pki relay/internal/quota relay/internal/record relay/internal/redact relay/internal/registry relay/internal/route relay/internal/tree relay/proof signer"},
	{"relay/internal/api", "proto/sealpost/v1 relay relay/internal/access relay/internal/audit relay/internal/control relay/internal/onboard relay/internal/operation relay/internal/redact relay/internal/registry relay/proof"},
	// The place that wires.
	{"relay/app", "relay relay/internal/access relay/internal/alert relay/internal/api relay/internal/archive relay/internal/audit relay/internal/control relay/internal/courier relay/internal/egress relay/internal/erasure " +
		"relay/internal/folder relay/internal/journal relay/internal/keys relay/internal/lane relay/internal/lease relay/internal/ledger relay/internal/onboard relay/internal/operation relay/internal/partition relay/internal/pki " +
		"relay/internal/quota relay/internal/registry relay/internal/replay relay/internal/retry relay/internal/route relay/internal/signin relay/internal/tree signer"},
	// The view knows the port that it implements, and no more.
	{"store", "relay"},
	{"store/redistest", ""},
	{"store/storetest", "relay"},
	// What sealpost bench runs: its server is a process of its own.
	{"test/bench", "proto/sealpost/v1 relay relay/client signer"},
	// The binary sees what is public.
	{"cmd/sealpost/demo", "proto/sealpost/v1 relay relay/app relay/chunk relay/client relay/receiver signer"},
	{"cmd/sealpost", "cmd/sealpost/demo proto/sealpost/v1 relay relay/app relay/client relay/proof relay/receiver signer store test/bench"},
	// What tests stand on.
	{"test/receivers", "signer"},
	{"test/receivers/go", ""},
	{"test/disk", ""},
	{"test/rig", ""},
	{"test/run", ""},
	{"test/cluster", ""},
	{"test/crash", ""},
	{"test/e2e", ""},
	{"test/faults", ""},
	{"test/imports", ""},
	{"test/readme", ""},
	{"test/trust", ""},
}

// theirs says which packages may know of which outside code, by the beginning of its path. What is not here may be used by none.
var theirs = map[string]string{
	"github.com/nats-io/":                    "relay/internal/journal",
	"github.com/redis/go-redis/":             "store store/redistest cmd/sealpost",
	"github.com/go-redis/redis_rate/":        "store",
	"github.com/cockroachdb/pebble/":         "store",
	"filippo.io/age":                         "cmd/sealpost",
	"github.com/gofrs/flock":                 "relay/internal/folder",
	"cel.dev/":                               "relay/internal/filter",
	"code.dny.dev/ssrf":                      "relay/internal/egress",
	"github.com/go-json-experiment/json":     "cmd/sealpost cmd/sealpost/demo relay/chunk relay/internal/api relay/internal/filter relay/internal/redact",
	"github.com/cenkalti/backoff/":           "relay/app relay/client relay/internal/ledger relay/internal/retry",
	"github.com/prometheus/client_golang/":   "relay/app relay/internal/access relay/internal/alert relay/internal/api relay/internal/ledger relay/internal/partition relay/internal/quota relay/internal/tree",
	"github.com/spf13/":                      "cmd/sealpost",
	"github.com/goccy/go-yaml":               "cmd/sealpost",
	"github.com/grpc-ecosystem/grpc-gateway": "proto/sealpost/v1 relay/internal/api",
	"google.golang.org/genproto/":            "relay/client relay/internal/api cmd/sealpost",
	"google.golang.org/grpc":                 "proto/sealpost/v1 relay/app relay/client relay/internal/api cmd/sealpost cmd/sealpost/demo test/rig",
	"google.golang.org/protobuf/":            "proto/sealpost/v1 relay/client relay/internal/access relay/internal/api relay/internal/audit relay/internal/erasure relay/internal/operation relay/internal/record relay/internal/registry cmd/sealpost cmd/sealpost/demo",
	"github.com/miekg/dns":                   "test/rig",
	"pgregory.net/rapid":                     "store/storetest",
	"github.com/coreos/go-oidc/":             "relay/internal/signin",
	"golang.org/x/":                          "*",
}

// standardOnly are the packages that others take alone: they bring nothing along.
var standardOnly = []string{"signer", "relay"}

type pkg struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	all := map[string]pkg{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(p.ImportPath, module)] = p
	}
}

func TestOurs(t *testing.T) {
	t.Parallel()
	tree := list(t)
	floor := map[string]int{}
	for i, row := range ours {
		if _, again := floor[row.name]; again {
			t.Errorf("%s has two rows", row.name)
		}
		floor[row.name] = i
		p, ok := tree[row.name]
		if !ok {
			t.Errorf("%s is in the table and not in the tree: take its row out", row.name)
			continue
		}
		allowed := strings.Fields(row.imports)
		for _, to := range p.Imports {
			to, mine := strings.CutPrefix(to, module)
			if !mine {
				continue
			}
			if !slices.Contains(allowed, to) {
				t.Errorf("new arrow: %s imports %s", row.name, to)
			}
			if below, known := floor[to]; known && below >= i || !known {
				t.Errorf("%s stands below %s and imports it", row.name, to)
			}
			allowed = slices.DeleteFunc(allowed, func(one string) bool { return one == to })
		}
		for _, gone := range allowed {
			t.Errorf("%s no longer imports %s: take the arrow out of the table", row.name, gone)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		if _, known := floor[name]; !known {
			t.Errorf("%s is new: give it a row", name)
		}
	}
}

func TestTheirs(t *testing.T) {
	t.Parallel()
	tree := list(t)
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		for _, to := range tree[name].Imports {
			host, _, _ := strings.Cut(to, "/")
			if strings.HasPrefix(to, module) || !strings.Contains(host, ".") || strings.HasPrefix(name, "test/") && name != "test/rig" {
				continue
			}
			if slices.Contains(standardOnly, name) {
				t.Errorf("%s imports %s, and is to need the standard library alone", name, to)
				continue
			}
			who := "nobody"
			for prefix, packages := range theirs {
				if strings.HasPrefix(to, prefix) {
					who = packages
				}
			}
			if who != "*" && !slices.Contains(strings.Fields(who), name) {
				t.Errorf("%s imports %s, which is for %s", name, to, who)
			}
		}
	}
}
