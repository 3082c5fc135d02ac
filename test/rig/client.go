package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// Client calls a process with one token.
type Client struct {
	tb    testing.TB
	http  string
	grpc  string
	Token string
}

// As is the same process, called with another token; the empty one calls without.
func (c *Client) As(token string) *Client {
	return &Client{tb: c.tb, http: c.http, grpc: c.grpc, Token: token}
}

// In is the same client for a subtest: it is that one which fails.
func (c *Client) In(tb testing.TB) *Client {
	return &Client{tb: tb, http: c.http, grpc: c.grpc, Token: c.Token}
}

// Object is a JSON object.
type Object map[string]any

// S is the string at a path of members.
func (o Object) S(path ...string) string {
	s, _ := o.at(path).(string)
	return s
}

// N is the number at a path of members, also where protojson wrote it as a string.
func (o Object) N(path ...string) int {
	switch v := o.at(path).(type) {
	case float64:
		return int(v)
	case string:
		n, _ := strconv.Atoi(v)
		return n
	}
	return 0
}

// O is the object at a path of members.
func (o Object) O(path ...string) Object {
	v, _ := o.at(path).(map[string]any)
	return v
}

// L is the list of objects at a path of members.
func (o Object) L(path ...string) []Object {
	list, _ := o.at(path).([]any)
	out := make([]Object, 0, len(list))
	for _, one := range list {
		v, _ := one.(map[string]any)
		out = append(out, v)
	}
	return out
}

func (o Object) at(path []string) any {
	var v any = map[string]any(o)
	for _, name := range path {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

// Answer is an HTTP response.
type Answer struct {
	Status int
	Header http.Header
	Raw    []byte
	Object
}

// Send makes one request with a body as it is.
func (c *Client) Send(method, path, contentType string, body []byte) (Answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.http+path, bytes.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	a := Answer{Status: resp.StatusCode, Header: resp.Header}
	if a.Raw, err = io.ReadAll(resp.Body); err != nil {
		return a, err
	}
	if len(a.Raw) > 0 && json.Unmarshal(a.Raw, &a.Object) != nil {
		a.Object = nil
	}
	return a, nil
}

// Do makes one request; a []byte or string goes as it is, anything else as JSON.
func (c *Client) Do(method, path string, body any) Answer {
	c.tb.Helper()
	var in []byte
	switch b := body.(type) {
	case nil:
	case []byte:
		in = b
	case string:
		in = []byte(b)
	default:
		var err error
		if in, err = json.Marshal(b); err != nil {
			c.tb.Fatal(err)
		}
	}
	a, err := c.Send(method, path, "application/json", in)
	if err != nil {
		c.tb.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// OK makes a request that must be answered with 200.
func (c *Client) OK(method, path string, body any) Object {
	c.tb.Helper()
	a := c.Do(method, path, body)
	if a.Status != http.StatusOK {
		c.tb.Fatalf("%s %s: %d %s", method, path, a.Status, a.Raw)
	}
	return a.Object
}

// Conn is a gRPC connection that authenticates with the client's token, closed when the test ends.
func (c *Client) Conn() *grpc.ClientConn {
	c.tb.Helper()
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20), grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second, Backoff: backoff.Config{
			BaseDelay: 10 * time.Millisecond, Multiplier: 1.5, MaxDelay: 50 * time.Millisecond}}),
	}
	if c.Token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer(c.Token)))
	}
	conn, err := grpc.NewClient("passthrough:///"+c.grpc, options...)
	if err != nil {
		c.tb.Fatal(err)
	}
	c.tb.Cleanup(func() { conn.Close() })
	return conn
}

type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return false }

// Endpoint is a registered endpoint.
type Endpoint struct {
	ID, Tenant        string
	Secret, PublicPEM string
	State             string
	Object            // as it was answered
}

// Register creates an endpoint of tenant acme for all events of contact.*, signed with scheme standard; more says what else or otherwise.
func (c *Client) Register(url string, more Object) Endpoint {
	c.tb.Helper()
	e := Object{"tenant": "acme", "url": url, "owner": "ops@partner.example", "purpose": "tests", "eventTypes": []string{"contact.*"},
		"redaction": Object{"mode": "NONE"}, "environment": "PRODUCTION"}
	for k, v := range more {
		e[k] = v
	}
	made := c.OK("POST", "/v1/endpoints", e)
	return Endpoint{
		ID: made.S("endpoint", "id"), Tenant: made.S("endpoint", "tenant"), State: made.S("endpoint", "state"),
		Secret: made.S("secret"), PublicPEM: made.S("publicKeyPem"), Object: made.O("endpoint"),
	}
}

// Path is the endpoint's.
func (e Endpoint) Path() string { return "/v1/endpoints/" + e.ID + "?tenant=" + e.Tenant }

// Act calls a verb of an endpoint, such as "pause".
func (c *Client) Act(e Endpoint, verb string) Answer {
	c.tb.Helper()
	return c.Do("POST", "/v1/endpoints/"+e.ID+":"+verb, Object{"tenant": e.Tenant})
}

// MustAct is Act where the answer must be 200.
func (c *Client) MustAct(e Endpoint, verb string) Object {
	c.tb.Helper()
	return c.OK("POST", "/v1/endpoints/"+e.ID+":"+verb, Object{"tenant": e.Tenant})
}

// Event is a contact.updated of tenant acme with the id; data is JSON.
func Event(id, data string) Object {
	return Object{"tenant": "acme", "id": id, "type": "contact.updated", "time": "2026-01-02T03:04:05Z", "subject": "contact/42",
		"data": json.RawMessage(data)}
}

// Publish publishes an event that must be kept.
func (c *Client) Publish(event Object) Object {
	c.tb.Helper()
	return c.OK("POST", "/v1/events", event)
}

// PublishMany publishes contact.updated events with the ids prefix-0 to prefix-(n-1), in batches.
func (c *Client) PublishMany(tenant, prefix string, n int) []string {
	c.tb.Helper()
	var ids []string
	for from := 0; from < n; from += 500 {
		var events []Object
		for i := from; i < min(n, from+500); i++ {
			e := Event(fmt.Sprintf("%s-%d", prefix, i), fmt.Sprintf(`{"n":%d}`, i))
			e["tenant"] = tenant
			ids = append(ids, e.S("id"))
			events = append(events, e)
		}
		for i, r := range c.OK("POST", "/v1/events:batch", Object{"events": events}).L("results") {
			if r["error"] != nil || r.S("id") != ids[from+i] {
				c.tb.Fatalf("event %d of the batch: %v", i, r)
			}
		}
	}
	return ids
}

// Deliveries lists all deliveries of a query such as "tenant=acme&state=DEAD", over all pages.
func (c *Client) Deliveries(query string) []Object {
	c.tb.Helper()
	var out []Object
	for token := ""; ; {
		page := c.OK("GET", "/v1/deliveries?pageSize=1000&"+query+"&pageToken="+url.QueryEscape(token), nil)
		out = append(out, page.L("deliveries")...)
		if token = page.S("nextPageToken"); token == "" {
			return out
		}
	}
}

// Delivery is the one with its attempts.
func (c *Client) Delivery(id, tenant string) Object {
	c.tb.Helper()
	return c.OK("GET", "/v1/deliveries/"+id+"?tenant="+tenant, nil)
}

// AwaitDelivery waits until the event's delivery to the endpoint is in one of the states, and returns it with its attempts.
func (c *Client) AwaitDelivery(e Endpoint, eventID string, states ...string) Object {
	c.tb.Helper()
	var last Object
	Eventually(c.tb, fmt.Sprintf("the delivery of %s is %s", eventID, strings.Join(states, " or ")), func() bool {
		list := c.Deliveries("tenant=" + e.Tenant + "&eventId=" + eventID + "&endpointId=" + e.ID)
		if len(list) > 1 {
			c.tb.Fatalf("one event has %d deliveries to one endpoint: %v", len(list), list)
		}
		if len(list) == 0 {
			return false
		}
		last = list[0]
		for _, s := range states {
			if last.S("state") == s {
				return true
			}
		}
		return false
	}, func() string { return fmt.Sprint(last) })
	return c.Delivery(last.S("id"), e.Tenant)
}

// AwaitCount waits until a query has n deliveries.
func (c *Client) AwaitCount(query string, n int) []Object {
	c.tb.Helper()
	var list []Object
	Eventually(c.tb, fmt.Sprintf("%d deliveries are %s", n, query), func() bool {
		list = c.Deliveries(query)
		return len(list) == n
	}, func() string { return fmt.Sprintf("there are %d", len(list)) })
	return list
}

// Within bounds each wait for something to come about.
const Within = 30 * time.Second

// Eventually waits until a condition holds, and fails the test if it does not in time.
func Eventually(tb testing.TB, what string, holds func() bool, instead ...func() string) {
	tb.Helper()
	wait := 5 * time.Millisecond
	for deadline := time.Now().Add(Within); !holds(); time.Sleep(wait) {
		wait = min(2*wait, 100*time.Millisecond)
		if time.Now().After(deadline) {
			detail := ""
			for _, f := range instead {
				detail += "; " + f()
			}
			tb.Fatalf("not within %v: %s%s", Within, what, detail)
		}
	}
}

// Metric is the sum of a metric's series whose labels contain what is given, such as `state="DELIVERED"`.
func (p *Process) Metric(name, labels string) float64 {
	p.tb.Helper()
	sum, err := p.metric(name, labels)
	if err != nil {
		p.tb.Fatal(err)
	}
	return sum
}

func (p *Process) metric(name, labels string) (sum float64, err error) {
	text, err := p.Metrics()
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		base, rest, _ := strings.Cut(series, "{")
		if ok && base == name && strings.Contains(rest, labels) {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return 0, fmt.Errorf("metric %s: %w", name, err)
			}
			sum += v
		}
	}
	return sum, nil
}

// Metrics is the text of /metrics.
func (p *Process) Metrics() (string, error) {
	resp, err := http.Get("http://" + p.Admin + "/metrics")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}
