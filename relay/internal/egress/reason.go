package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// A Reason is why a request brought no response: a closed set, one for each error of this package.
type Reason string

const (
	DNSNotFound                   Reason = "DNS_NOT_FOUND"
	DNSFailure                    Reason = "DNS_FAILURE"
	AddressForbidden              Reason = "ADDRESS_FORBIDDEN"
	ConnectRefused                Reason = "CONNECT_REFUSED"
	ConnectTimeout                Reason = "CONNECT_TIMEOUT" // resolving, connecting or the TLS handshake took too long
	ConnectFailed                 Reason = "CONNECT_FAILED"
	TLSCertificateInvalid         Reason = "TLS_CERTIFICATE_INVALID"
	TLSCertificateExpired         Reason = "TLS_CERTIFICATE_EXPIRED" // or not valid yet
	TLSHostname                   Reason = "TLS_HOSTNAME"
	TLSPinMismatch                Reason = "TLS_PIN_MISMATCH"
	TLSHandshake                  Reason = "TLS_HANDSHAKE"
	ClientCertificateNotRequested Reason = "CLIENT_CERTIFICATE_NOT_REQUESTED"
	ClientCertificateRefused      Reason = "CLIENT_CERTIFICATE_REFUSED"
	ClientCertificateUnconfirmed  Reason = "CLIENT_CERTIFICATE_UNCONFIRMED"
	ResponseTimeout               Reason = "RESPONSE_TIMEOUT" // the request was written, no response header came in time
	ResponseInvalid               Reason = "RESPONSE_INVALID" // not HTTP, or a header over 64 KiB
	ConnectionReset               Reason = "CONNECTION_RESET"
	ConnectionClosed              Reason = "CONNECTION_CLOSED"
	Timeout                       Reason = "TIMEOUT" // while writing the request or reading the response's body
	Cancelled                     Reason = "CANCELLED"
	TransportOther                Reason = "TRANSPORT_OTHER" // a request that cannot be made: a bad header, scheme or body
)

// Reasons returns every Reason, for tables that must be whole and for metric labels.
func Reasons() []Reason {
	return []Reason{
		DNSNotFound, DNSFailure, AddressForbidden, ConnectRefused, ConnectTimeout, ConnectFailed,
		TLSCertificateInvalid, TLSCertificateExpired, TLSHostname, TLSPinMismatch, TLSHandshake,
		ClientCertificateNotRequested, ClientCertificateRefused, ClientCertificateUnconfirmed,
		ResponseTimeout, ResponseInvalid, ConnectionReset, ConnectionClosed, Timeout, Cancelled, TransportOther,
	}
}

// What a request fails with, for a caller that branches on it; each is wrapped in an Error.
var (
	// ErrForbiddenAddress is matched by every ForbiddenError.
	ErrForbiddenAddress = errors.New("egress: forbidden address")
	// ErrPinMismatch: no certificate of the verified chain has a pinned key.
	ErrPinMismatch = errors.New("egress: no certificate matches a pin")
	// ErrClientCertificateNotRequested: our certificate is required and the server did not ask for it.
	ErrClientCertificateNotRequested = errors.New("egress: server did not ask for our certificate")
	// ErrClientCertificateRefused: the server asked for a certificate and did not take ours (or the lack of one).
	ErrClientCertificateRefused = errors.New("egress: server refused our certificate")
	// ErrClientCertificateUnconfirmed: the server asked for our certificate, but did not show in time that it took it.
	ErrClientCertificateUnconfirmed = errors.New("egress: server did not confirm our certificate")
	// ErrRequest: a request that this package does not make.
	ErrRequest = errors.New("egress: unacceptable request")
)

// An Error is what every error of Pool.RoundTrip, and of reading the response body it returned, is.
type Error struct {
	Reason Reason
	Err    error
	conn   *conn // as far as it got, for the facts
}

// Error gives the reason, then the cause. The cause may name the partner's host or public address, nothing of a body.
func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Reason, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Classify returns the Reason of an error: the one it carries, or what can be told from the error alone. It is "" for
// nil.
func Classify(err error) Reason {
	var known *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &known):
		return known.Reason
	case errors.Is(err, context.Canceled):
		return Cancelled
	case errors.Is(err, ErrForbiddenAddress):
		return AddressForbidden
	}
	if reason := connectionReason(err); reason != "" {
		return reason
	}
	if timedOut(err) {
		return Timeout
	}
	return TransportOther
}

// connectionReason tells how an established connection broke; "" if err is of another kind.
func connectionReason(err error) Reason {
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNABORTED):
		return ConnectionReset
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return ConnectionClosed
	case remoteAlert(err):
		return ConnectionReset
	}
	return ""
}

func dnsReason(err error) Reason {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return DNSNotFound
	case errors.Is(err, context.Canceled):
		return Cancelled
	}
	return DNSFailure
}

func connectReason(err error) Reason {
	switch {
	case errors.Is(err, context.Canceled):
		return Cancelled
	case errors.Is(err, ErrForbiddenAddress):
		return AddressForbidden
	case errors.Is(err, syscall.ECONNREFUSED):
		return ConnectRefused
	case timedOut(err), errors.Is(err, syscall.ETIMEDOUT):
		return ConnectTimeout
	}
	return ConnectFailed
}

// handshakeError gives the error of a TLS handshake its reason. asked is whether the server had already asked for a
// certificate: then it can break off for nothing else than what we presented, and the alert that says so is often lost to
// the reset that follows it.
func handshakeError(err error, asked bool) (Reason, error) {
	var verify *tls.CertificateVerificationError
	switch {
	case errors.Is(err, context.Canceled):
		return Cancelled, err
	case errors.Is(err, ErrPinMismatch):
		return TLSPinMismatch, err
	case timedOut(err):
		return ConnectTimeout, err
	case errors.As(err, &verify):
		return verifyReason(verify.Err), err
	case asked && (remoteAlert(err) || connectionReason(err) != ""):
		return ClientCertificateRefused, fmt.Errorf("%w: %w", ErrClientCertificateRefused, err)
	}
	return TLSHandshake, err
}

func verifyReason(err error) Reason {
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &host):
		return TLSHostname
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return TLSCertificateExpired
	}
	return TLSCertificateInvalid
}

// remoteAlert is whether the peer sent a fatal TLS alert. crypto/tls gives the alert no exported type; it always comes as
// a net.OpError with this operation.
func remoteAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// localAlert is whether crypto/tls could not read what the peer sent as TLS, and said so to it.
func localAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "local error"
}

func timedOut(err error) bool {
	var network net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &network) && network.Timeout()
}
