package egress

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Bounds of what a fetch gets.
const (
	maxAnswer  = 1 << 20 // bytes of a body
	answerTime = 15 * time.Second
)

// ErrTooLarge is for an answer to a fetch that is larger than anything that is fetched.
var ErrTooLarge = fmt.Errorf("egress: answer of more than %d bytes", maxAnswer)

var errPlain = errors.New("egress: only https is fetched")

// NewClient is an HTTP client for what the relay itself reads elsewhere, as at an OpenID provider: nothing of it is an event. Each
// connection passes the guard as deliveries do; no redirect is followed, no proxy is used, an answer is at most 1 MiB and takes at
// most 15 s. roots nil are the system's. Without plain only https is fetched.
func NewClient(o Options, roots *x509.CertPool, plain bool) *http.Client {
	pool := NewPool(o) // for its defaults: it keeps nothing here
	d := &dialer{guard: &pool.options.Guard, resolver: pool.options.Resolver, timeout: pool.options.ConnectTimeout}
	return &http.Client{
		Timeout:       answerTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &guarded{plain: plain, next: &http.Transport{
			DialContext:            d.dialPlain,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    pool.options.ConnectTimeout,
			MaxResponseHeaderBytes: maxResponseHeader,
			IdleConnTimeout:        pool.options.IdleConnTimeout,
			MaxIdleConnsPerHost:    2,
		}},
	}
}

// guarded bounds what comes back.
type guarded struct {
	plain bool
	next  *http.Transport
}

// RoundTrip makes one request.
func (f *guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !f.plain {
		return nil, errPlain
	}
	resp, err := f.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &bounded{resp.Body, maxAnswer}
	return resp, nil
}

// CloseIdleConnections is for http.Client's method of that name.
func (f *guarded) CloseIdleConnections() { f.next.CloseIdleConnections() }

type bounded struct {
	io.ReadCloser
	left int
}

// Read ends with an error, and not as if all were there, where the bound is passed.
func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, ErrTooLarge
	}
	return n, err
}
