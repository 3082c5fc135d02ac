package control

import (
	"context"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
)

// reads are the methods that take a caller and change nothing, so that they leave no record but of a refusal. A method that is not here acts, and has
// to go through act or alter.
var reads = map[string]string{
	"PublishEvents":    "the log of events is the record of what was published",
	"PreviewEvent":     "nothing is kept",
	"GetEndpoint":      "reads",
	"ListEndpoints":    "reads",
	"EndpointHealth":   "reads",
	"GetOperation":     "reads",
	"ListOperations":   "reads",
	"ListDeliveries":   "reads",
	"GetDelivery":      "reads",
	"WatchDeliveries":  "reads",
	"ListTokens":       "reads",
	"ListAccounts":     "reads",
	"GetEventType":     "reads",
	"ListEventTypes":   "reads",
	"ListInventory":    "reads",
	"ReviewEndpoint":   "shows what would leave",
	"GetAccount":       "reads",
	"ListCertificates": "reads",
	"Caller":           "says who calls",
	"ListAudit":        "reads",
	"WatchAudit":       "reads",
	"AuditCheckpoint":  "reads",
	"ProveAudit":       "reads",
}

// readers are the methods of control's parts that change nothing. Any other may be used in an act alone.
var readers = map[string][]string{
	"Journal":  {"Events", "Partition", "Partitions", "MaxEventBytes"},
	"Registry": {"Snapshot", "Load", "Dev", "Compile"},
	"Sealer":   {"Digest"},
	"Access": {"Live", "Get", "List", "Account", "Accounts", "Certificate", "Certificates", "Good", "GoodCertificate", "Credentials", "LastUse", "Unused",
		"Hands", "HandsFor"},
	"Certificates": {},
	"SignIns":      {"AuthURL", "Exchange", "Life"},
	"Audit":        {"Refuse", "Change"},
	"Ledger":       {"Event", "Deliveries", "Delivery"},
	"Owners":       {"Health"},
	"Feed":         {"Outcomes"},
	"Operations":   {"Get", "List"},
	"Erasures":     {"Digest", "Err", "Snapshot"},
	"Guard":        {"Check"},
	"Quotas":       {"Take"},
	"Trail":        {"List", "Watch", "Latest"},
	"Tree":         {"Key", "Halted", "Broken", "Consistency", "Inclusion"},
	"Logger":       {"Warn", "Error"},
}

// inActs are functions that use a part for an act, and are called in one; or hand on what is.
var inActs = []string{"settle", "settleTypes", "RetryDelivery", "CancelDelivery"}

// anybodys are the methods that need no scope: an account may know who it is, and what it gets over its certificate is its own.
var anybodys = []string{"Caller", "RenewCertificate", "GrantAccess"}

// source is the package as it is written.
type source struct {
	functions map[string]*ast.FuncDecl
	door      []string // the exported methods that take a caller
}

func readSource(t *testing.T) source {
	t.Helper()
	files, err := parser.ParseDir(token.NewFileSet(), ".", func(f os.FileInfo) bool { return !strings.HasSuffix(f.Name(), "_test.go") }, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := source{functions: map[string]*ast.FuncDecl{}}
	for _, file := range files["control"].Files {
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			s.functions[f.Name.Name] = f
			if f.Recv == nil || !f.Name.IsExported() {
				continue
			}
			for _, p := range f.Type.Params.List {
				if sel, ok := p.Type.(*ast.SelectorExpr); ok && sel.Sel.Name == "Caller" {
					s.door = append(s.door, f.Name.Name)
				}
			}
		}
	}
	return s
}

// reached are the functions of the package that one calls, itself or through others.
func (s source) reached(name string, into map[string]bool) map[string]bool {
	f := s.functions[name]
	if f == nil || into[name] {
		return into
	}
	into[name] = true
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok {
				s.reached(f.Name, into)
			}
		case *ast.SelectorExpr:
			if on, ok := n.X.(*ast.Ident); ok && on.Name == "c" {
				s.reached(n.Sel.Name, into)
			}
		}
		return true
	})
	return into
}

// Every method that takes a caller checks it, and acts between two records unless it is known to change nothing.
func TestEveryMethodIsAudited(t *testing.T) {
	t.Parallel()
	s := readSource(t)
	if len(s.door) < 30 {
		t.Fatalf("only %d methods take a caller: %v", len(s.door), s.door)
	}
	for _, name := range s.door {
		to := s.reached(name, map[string]bool{})
		if !to["allow"] && !to["mayPublish"] && !slices.Contains(anybodys, name) {
			t.Errorf("%s does not check its caller", name)
		}
		if acts := to["act"] || to["alter"]; !acts && reads[name] == "" {
			t.Errorf("%s acts without a record: do it in act or alter, or say in reads why it needs none", name)
		} else if acts && reads[name] != "" {
			t.Errorf("%s acts, and is said to read", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(reads)) {
		if !slices.Contains(s.door, name) {
			t.Errorf("%s is no method that takes a caller: take it out", name)
		}
	}
	for name, f := range s.functions {
		if slices.Contains(inActs, name) {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if sel, ok := call.Fun.(*ast.SelectorExpr); ok && (sel.Sel.Name == "act" || sel.Sel.Name == "alter" || name == "alter" && sel.Sel.Name == "Change") {
					return false // what stands in it is done between the records
				}
			}
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			part, ok := sel.X.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			on, ok := part.X.(*ast.Ident)
			if !ok || on.Name != "c" {
				return true
			}
			if known, is := readers[part.Sel.Name]; is && !slices.Contains(known, sel.Sel.Name) {
				t.Errorf("%s uses c.%s.%s outside of an act", name, part.Sel.Name, sel.Sel.Name)
			}
			return true
		})
	}
	// A part that is new is to be looked at here too.
	for f := range reflect.TypeFor[Options]().Fields() {
		if k := f.Type.Kind(); (k == reflect.Pointer || k == reflect.Interface) && readers[f.Name] == nil && f.Name != "Tester" {
			t.Errorf("say in readers what of %s changes nothing", f.Name)
		}
	}
}

// Every refusal of every method leaves a record that says who, by what, from where, what and why.
func TestEveryRefusalIsRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	door := reflect.ValueOf(w.Control)
	n := 0
	for m := range door.Type().Methods() {
		if m.Type.NumIn() < 3 || m.Type.In(2) != reflect.TypeFor[access.Caller]() || m.Name == "Caller" {
			continue
		}
		n++
		who := w.caller("of-"+m.Name, access.Operator, "globex")
		who.Scopes = nil
		args := []reflect.Value{reflect.ValueOf(context.Context(t.Context())), reflect.ValueOf(who)}
		for i := 3; i < m.Type.NumIn(); i++ {
			args = append(args, reflect.Zero(m.Type.In(i)))
		}
		before := len(w.records())
		out := door.Method(m.Index).Call(args)
		if err, _ := out[len(out)-1].Interface().(error); !isForbidden(err) {
			t.Errorf("%s is not refused: %v", m.Name, err)
		}
		got := w.records()[before:]
		if len(got) != 1 {
			t.Errorf("%s: %d records of a refusal", m.Name, len(got))
			continue
		}
		r := got[0]
		if r.Outcome != audit.Refused || r.Act == "" || r.Scope == "" || r.Reason == "" || r.Account != who.Account || r.CredentialID != who.CredentialID ||
			r.CredentialKind != "TOKEN" || r.Role != access.Operator || r.Address != who.Address {
			t.Errorf("%s: %+v", m.Name, r)
		}
	}
	if n < 30 {
		t.Errorf("only %d methods take a caller", n)
	}
}

// What an act changes stands in the record that is written before it; without secrets, but so that their change shows.
func TestBeforeAndAfter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	ann := w.caller("ann", access.Partner, "acme")
	e := w.active(ann, func(s *Spec) {
		s.Bearer, s.URL = relay.NewSecret("old-token"), "https://hooks.partner.example/a?key=old-key"
	})
	last := func(act string) (allowed, done audit.Record) {
		t.Helper()
		all := w.records()
		allowed, done = all[len(all)-2], all[len(all)-1]
		if allowed.Act != act || allowed.Outcome != audit.Allowed || done.Outcome != audit.Done || done.ActID != allowed.ActID {
			t.Fatalf("records: %+v, %+v", allowed, done)
		}
		return allowed, done
	}
	member := func(text json.RawMessage, name string) string {
		m := map[string]json.RawMessage{}
		if len(text) > 0 && json.Unmarshal(text, &m) != nil {
			t.Fatalf("no object: %s", text)
		}
		return string(m[name])
	}
	allowed, done := last("endpoint.approve")
	if member(allowed.Before, "state") != `"PENDING"` || member(allowed.After, "state") != `"ACTIVE"` || member(allowed.After, "approver") != `"bob"` || done.After != nil {
		t.Errorf("approve: %s, %s, %s", allowed.Before, allowed.After, done.After)
	}
	_, err := w.UpdateEndpoint(ctx, ann, Ref{ID: e.ID}, Spec{EventTypes: []string{"contact.updated"}, Bearer: relay.NewSecret("new-token"), Concurrency: 3},
		[]string{"eventTypes", "bearerToken", "concurrency"})
	if err != nil {
		t.Fatal(err)
	}
	allowed, _ = last("endpoint.update")
	if member(allowed.Before, "eventTypes") != `["contact.*"]` || member(allowed.After, "eventTypes") != `["contact.updated"]` || member(allowed.After, "concurrency") != "3" {
		t.Errorf("update: %s, %s", allowed.Before, allowed.After)
	}
	if a, b := member(allowed.Before, "bearerDigest"), member(allowed.After, "bearerDigest"); a == "" || b == "" || a == b {
		t.Errorf("a new bearer token does not show: %s, %s", a, b)
	}
	if member(allowed.Before, "state") != "" || member(allowed.Before, "urlDigest") != "" {
		t.Errorf("what did not change is there: %s", allowed.Before)
	}
	if _, err := w.PauseEndpoint(ctx, ann, Ref{ID: e.ID}, "holidays"); err != nil {
		t.Fatal(err)
	}
	if allowed, _ = last("endpoint.pause"); allowed.Reason != "holidays" || allowed.Scope != access.EndpointsOperate || member(allowed.After, "state") != `"PAUSED"` {
		t.Errorf("pause: %+v", allowed)
	}
	for _, r := range w.records() {
		for _, secret := range []string{"old-token", "new-token", "old-key"} {
			if strings.Contains(string(r.Before)+string(r.After), secret) {
				t.Errorf("%s shows %s", r.Act, secret)
			}
		}
	}
}
