package store

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// address is a parsed store URL: dir of the embedded store, or where Redis is.
type address struct {
	dir string

	nodes    []string // host:port
	cluster  bool
	user     string
	password string
	db       int
	prefix   string
	timeout  time.Duration
	tls      *tls.Config // nil: plain
}

const (
	defaultPrefix  = "sealpost:"
	maxPrefix      = 64
	defaultPort    = "6379"
	defaultTimeout = 5 * time.Second
	maxTimeout     = time.Minute
)

// String shows no password.
func (a *address) String() string {
	if a.dir != "" {
		return a.dir
	}
	return strings.Join(a.nodes, ",")
}

func parseAddress(raw string) (*address, error) {
	if raw == "" {
		return nil, errors.New("URL is empty")
	}
	scheme, _, isURL := strings.Cut(raw, "://")
	if !isURL {
		if strings.ContainsRune(raw, 0) {
			return nil, errors.New("path holds a zero byte")
		}
		return &address{dir: raw}, nil
	}
	u, err := url.Parse(raw)
	if err != nil { // whose text would show the URL
		return nil, errors.New("URL cannot be parsed (a password must be percent-encoded)")
	}
	if u.Fragment != "" || u.Opaque != "" {
		return nil, errors.New("URL has a fragment (a # in a password must be written %23)")
	}
	switch scheme {
	case "embedded":
		return parseEmbedded(u)
	case "redis", "rediss", "redis+cluster", "rediss+cluster":
		return parseRedis(u)
	}
	known := []string{"embedded", "redis", "rediss", "redis+cluster", "rediss+cluster"}
	return nil, fmt.Errorf("scheme %q is unknown; did you mean %q?", scheme, nearest(scheme, known))
}

func parseEmbedded(u *url.URL) (*address, error) {
	if u.Host != "" || u.User != nil || u.Path == "" || u.Path == "/" {
		return nil, errors.New("embedded:// needs an absolute path, as in embedded:///var/lib/sealpost/view")
	}
	if u.RawQuery != "" {
		return nil, errors.New("embedded:// takes no parameters")
	}
	return &address{dir: u.Path}, nil
}

func parseRedis(u *url.URL) (*address, error) {
	a := &address{cluster: strings.HasSuffix(u.Scheme, "+cluster"), prefix: defaultPrefix, timeout: defaultTimeout}
	secure := strings.HasPrefix(u.Scheme, "rediss")
	node, err := hostPort(u.Host)
	if err != nil {
		return nil, err
	}
	a.nodes = []string{node}
	if u.User != nil {
		a.user = u.User.Username()
		a.password, _ = u.User.Password()
	}
	if path := strings.TrimPrefix(u.Path, "/"); path != "" {
		if a.db, err = strconv.Atoi(path); err != nil || a.db < 0 || a.cluster {
			return nil, errors.New("path must be the number of a database, and a cluster has none")
		}
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("parameters cannot be parsed")
	}
	if err := a.parameters(query, secure); err != nil {
		return nil, err
	}
	if secure {
		a.tls, err = clientTLS(query.Get("ca"), query.Get("cert"), query.Get("key"))
	}
	return a, err
}

func hostPort(s string) (string, error) {
	if s == "" {
		return "", errors.New("host is missing")
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.Trim(strings.TrimSuffix(s, ":"), "[]"), defaultPort
	}
	if n, err := strconv.Atoi(port); host == "" || err != nil || n < 1 || n > 65535 {
		return "", fmt.Errorf("%q is not host:port", s)
	}
	return net.JoinHostPort(host, port), nil
}

// parameters takes over the query's; those for files are only checked for being allowed.
func (a *address) parameters(query url.Values, secure bool) error {
	known := []string{"prefix", "timeout"}
	if a.cluster {
		known = append(known, "addr")
	}
	if secure {
		known = append(known, "ca", "cert", "key")
	}
	for name, values := range query {
		if !slices.Contains(known, name) {
			return fmt.Errorf("parameter %q is unknown here; the nearest known one is %q", name, nearest(name, known))
		}
		if len(values) > 1 && name != "addr" {
			return fmt.Errorf("parameter %q is given twice", name)
		}
		for _, value := range values {
			if err := a.parameter(name, value); err != nil {
				return fmt.Errorf("parameter %q: %w", name, err)
			}
		}
	}
	return nil
}

func (a *address) parameter(name, value string) (err error) {
	switch name {
	case "prefix":
		if !validPrefix(value) {
			return fmt.Errorf("must be 1 to %d of letters, digits, ':', '_', '-' and '.'", maxPrefix)
		}
		a.prefix = value
	case "timeout":
		a.timeout, err = time.ParseDuration(value)
		if err != nil || a.timeout < 10*time.Millisecond || a.timeout > maxTimeout {
			return fmt.Errorf("must be a duration from 10ms to %v", maxTimeout)
		}
	case "addr":
		node, err := hostPort(value)
		if err != nil {
			return err
		}
		a.nodes = append(a.nodes, node)
	}
	return nil
}

// validPrefix keeps braces out: they would change which slot of a cluster a key is in.
func validPrefix(s string) bool {
	if s == "" || len(s) > maxPrefix {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(":_-.", c) >= 0) {
			return false
		}
	}
	return true
}

// clientTLS checks the server by the system's roots, or those of the file ca.
func clientTLS(ca, cert, key string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("parameter \"ca\": %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("parameter \"ca\": no certificate in %s", ca)
		}
	}
	if (cert == "") != (key == "") {
		return nil, errors.New("parameters \"cert\" and \"key\" go together")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("parameters \"cert\" and \"key\": %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// nearest is the known word with the fewest edits from s; the first of those where several are as near.
func nearest(s string, known []string) string {
	if len(s) > maxPrefix {
		s = s[:maxPrefix]
	}
	best, least := "", int(^uint(0)>>1)
	for _, word := range known {
		if d := edits(s, word); d < least {
			best, least = word, d
		}
	}
	return best
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			swap := diagonal
			if a[i] != b[j] {
				swap++
			}
			diagonal = row[j+1]
			row[j+1] = min(swap, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
