package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/sealpost/sealpost/relay/receiver"
	"github.com/sealpost/sealpost/signer"
)

const listenHelp = `Receive deliveries, verify them and print them, for partners and for trying things.

Each delivery is printed once, whole, also where it came in chunks. What cannot be verified is answered with 401 and named on
standard error. "ready", alone on a line of standard error, says that it listens. With --fail the first requests are refused, to
see the sender come back.`

func newListen() *cobra.Command {
	cmd := &cobra.Command{
		Use: "listen", Short: "Receive deliveries, verify and print them", Long: listenHelp, Args: cobra.NoArgs,
		Example: "  sealpost listen --secret-file partner.secret --addr 127.0.0.1:8080\n" +
			"  sealpost listen --secret-file partner.secret --tls-cert cert.pem --tls-key key.pem --client-ca client-ca.pem --addr :8443",
	}
	var l listening
	l.keys.add(cmd)
	f := cmd.Flags()
	f.StringVar(&l.addr, "addr", "127.0.0.1:8080", "address to listen on")
	f.StringVar(&l.cert, "tls-cert", "", "PEM file with the certificate to show")
	f.StringVar(&l.key, "tls-key", "", "PEM file with its key")
	f.StringVar(&l.clientCA, "client-ca", "", "PEM file of roots; senders must show a certificate of theirs")
	f.StringVar(&l.external, "external-url", "", "how senders reach it, https://host, where a proxy is between; for "+signingURL())
	f.IntVar(&l.fail, "fail", 0, "refuse so many requests first")
	f.IntVar(&l.status, "status", http.StatusServiceUnavailable, "status to refuse them with")
	f.IntVar(&l.count, "count", 0, "end after so many deliveries (default never)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		asJSON, err := wantsJSON(cmd)
		if err != nil {
			return err
		}
		l.asJSON, l.out, l.errs = asJSON, cmd.OutOrStdout(), cmd.ErrOrStderr()
		return l.run(cmd.Context())
	}
	return cmd
}

// listening is one run of the command.
type listening struct {
	keys                                keyFlags
	addr, cert, key, clientCA, external string
	fail, status, count                 int
	asJSON                              bool

	mu        sync.Mutex // guards what follows
	out, errs io.Writer
	refused   int
	delivered int
	enough    context.CancelFunc
}

// listenGrace is how long a stop waits for requests under way.
const listenGrace = 5 * time.Second

func (l *listening) run(ctx context.Context) error {
	handler, err := l.handler()
	if err != nil {
		return err
	}
	conf, err := l.tls()
	if err != nil {
		return err
	}
	socket, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.addr)
	if err != nil {
		return err
	}
	ctx, l.enough = context.WithCancel(ctx)
	defer l.enough()
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, ErrorLog: nil}
	scheme := "http"
	if conf != nil {
		socket, scheme = tls.NewListener(socket, conf), "https"
	}
	fmt.Fprintf(l.errs, "listening on %s://%s\nready\n", scheme, socket.Addr())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(socket) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), listenGrace)
	defer cancel()
	err = server.Shutdown(grace)
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// handler verifies, after it has refused what --fail asks for.
func (l *listening) handler() (http.Handler, error) {
	if l.fail < 0 || l.count < 0 || l.status < 200 || l.status > 599 {
		return nil, usagef("--fail and --count must not be negative, and --status must be 200 to 599")
	}
	var options []signer.VerifierOption
	if l.external != "" {
		options = append(options, signer.WithExternalURL(l.external))
	}
	verifier, err := l.keys.verifier(options...)
	if err != nil {
		return nil, err
	}
	hook, err := receiver.New(receiver.Options{Verifier: verifier, OnEvent: l.print})
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if l.refuse() {
			w.WriteHeader(l.status)
			return
		}
		answer := &statusWriter{ResponseWriter: w}
		hook.ServeHTTP(answer, r)
		if answer.status >= 300 {
			l.note("refused with %d: %s from %s", answer.status, r.Header.Get(signer.HeaderID), r.RemoteAddr)
		}
	}), nil
}

func (l *listening) refuse() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refused >= l.fail {
		return false
	}
	l.refused++
	fmt.Fprintf(l.errs, "refused with %d as asked: %d of %d\n", l.status, l.refused, l.fail)
	return true
}

func (l *listening) note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintln(l.errs, plain(fmt.Sprintf(format, args...)))
}

// print shows one delivery. Its error makes the sender come again.
func (l *listening) print(_ context.Context, d receiver.Delivery) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.write(d); err != nil {
		return err
	}
	if l.delivered++; l.delivered == l.count {
		l.enough()
	}
	return nil
}

func (l *listening) write(d receiver.Delivery) error {
	if !l.asJSON {
		body := d.Body
		var b bytes.Buffer
		if json.Indent(&b, body, "", "  ") == nil {
			body = b.Bytes()
		}
		chunks := ""
		if d.Chunks > 0 {
			chunks = fmt.Sprintf(" in %d chunks", d.Chunks)
		}
		_, err := fmt.Fprintf(l.out, "%s verified with key %s, signed %s%s\n%s\n\n", plain(d.ID), d.KeyID, signedAt(d.Time), chunks,
			plainBody(body))
		return err
	}
	line := struct {
		ID          string          `json:"id"`
		Time        time.Time       `json:"time,omitzero"`
		KeyID       string          `json:"keyId"`
		ContentType string          `json:"contentType"`
		Chunks      int             `json:"chunks,omitempty"`
		Body        json.RawMessage `json:"body,omitempty"`
		Bytes       []byte          `json:"bytes,omitempty"`
	}{ID: d.ID, Time: d.Time, KeyID: d.KeyID, ContentType: d.ContentType, Chunks: d.Chunks}
	if json.Valid(d.Body) {
		line.Body = d.Body
	} else {
		line.Bytes = d.Body
	}
	return json.NewEncoder(l.out).Encode(line)
}

// plainBody is a body that cannot steer a terminal.
func plainBody(body []byte) string {
	if !utf8.Valid(body) {
		return fmt.Sprintf("(%d bytes that are not text)", len(body))
	}
	return plainLines(string(body))
}

func (l *listening) tls() (*tls.Config, error) {
	if (l.cert == "") != (l.key == "") {
		return nil, usagef("--tls-cert and --tls-key go together")
	}
	if l.cert == "" {
		if l.clientCA != "" {
			return nil, usagef("--client-ca needs --tls-cert and --tls-key")
		}
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(l.cert, l.key)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}}
	if l.clientCA != "" {
		pem, err := readBounded(l.clientCA, maxCABytes)
		if err != nil {
			return nil, fmt.Errorf("client-ca: %w", err)
		}
		conf.ClientCAs = x509.NewCertPool()
		if !conf.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("client-ca: %s holds no certificate", l.clientCA)
		}
		conf.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return conf, nil
}

// statusWriter remembers the status that was answered.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes the status.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
