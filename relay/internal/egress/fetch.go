package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

// What is fetched here is asked for by us, of hosts that others named: challenges, and looks at who answers. It goes by the same guard,
// resolver and trust as deliveries, on connections of its own that are not kept.

// Fetch bounds one fetch.
type Fetch struct {
	Timeout time.Duration // for all of it; required
	Body    int64         // bytes of the response's body that are read
}

// maxFetchHeader bounds the header of a response, in bytes.
const maxFetchHeader = 16 << 10

// Get makes one GET request without a body and returns the status and the beginning of the response's body. Redirects are not followed.
// Our certificate is shown where the server asks for one and the trust has one. Every error is an *Error.
func (p *Pool) Get(ctx context.Context, u *url.URL, f Fetch, to *Prepared) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	dialer := p.newKept(to).dialer
	transport := &http.Transport{
		DialTLSContext: dialer.dialGated, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxFetchHeader,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, &Error{Reason: TransportOther, Err: fmt.Errorf("%w: not https", ErrRequest)}
		},
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return 0, nil, &Error{Reason: TransportOther, Err: fmt.Errorf("%w: %w", ErrRequest, err)}
	}
	request.Header.Set("User-Agent", "Sealpost")
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, nil, fetchError(err)
	}
	defer response.Body.Close()
	if body, err = io.ReadAll(io.LimitReader(response.Body, f.Body)); err != nil {
		return response.StatusCode, nil, fetchError(err)
	}
	return response.StatusCode, body, nil
}

// Shake makes a connection to the host and port of an https URL, shakes hands, and closes it again. What it returns was verified as the trust says.
// Addresses that a certificate names are not gone to. Every error is an *Error; Facts come with one, too.
func (p *Pool) Shake(ctx context.Context, u *url.URL, f Fetch, to *Prepared) (tls.ConnectionState, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	made, err := p.newKept(to).dialer.dialGated(ctx, "tcp", addressOf(u))
	if err != nil {
		return tls.ConnectionState{}, false, fetchError(err)
	}
	defer made.Close()
	secure, ok := made.(*tls.Conn)
	if !ok {
		return tls.ConnectionState{}, false, &Error{Reason: TransportOther, Err: ErrRequest}
	}
	return secure.ConnectionState(), connOf(secure).asked, nil
}

// Addresses are those that a delivery to the URL would try, in their order. Where one may not be dialled, none is told.
func (p *Pool) Addresses(ctx context.Context, u *url.URL, f Fetch) ([]netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	d := &dialer{guard: &p.options.Guard, resolver: p.options.Resolver}
	return d.targets(ctx, addressOf(u))
}

// LookupTXT returns the TXT records of a name, asked of the same name servers as addresses; none where the name has none.
func (p *Pool) LookupTXT(ctx context.Context, name string, f Fetch) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	resolver, ok := p.options.Resolver.(interface {
		LookupTXT(ctx context.Context, name string) ([]string, error)
	})
	if !ok || !isName(name) {
		return nil, &Error{Reason: DNSFailure, Err: errors.New("resolve: TXT records of this name cannot be asked for")}
	}
	records, err := resolver.LookupTXT(ctx, name)
	if err == nil {
		return records, nil
	}
	if reason := dnsReason(err); reason != DNSNotFound {
		return nil, &Error{Reason: reason, Err: fmt.Errorf("resolve: %w", err)}
	}
	return nil, nil
}

// fetchError is err as an *Error.
func fetchError(err error) error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	if reason := Classify(err); reason != "" {
		return &Error{Reason: reason, Err: err}
	}
	return &Error{Reason: TransportOther, Err: err}
}
