package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/signer"
)

const verifyHelp = `Check one stored request against a key: its header and its body, byte for byte as they came.

The request is either a dump in one file (--request: the request line, the header, an empty line, the body) or two files
(--headers with "name: value" lines, and --body). A request that is older than --tolerance is stale, as it would be to a receiver;
--at names the time at which it came in.`

// maxStored bounds a stored request.
const maxStored = relay.DefaultMaxDataSize + 1<<20

func newVerify() *cobra.Command {
	cmd := &cobra.Command{
		Use: "verify", Short: "Check one stored request against a key", Long: verifyHelp, Args: cobra.NoArgs,
		Example: "  sealpost verify --secret-file partner.secret --request dump.http --at 2026-01-02T03:04:05Z",
	}
	var v verifying
	v.keys.add(cmd)
	f := cmd.Flags()
	f.StringVar(&v.request, "request", "", "file with the whole request; - is standard input")
	f.StringVar(&v.headers, "headers", "", "file with the header")
	f.StringVar(&v.body, "body", "", "file with the body")
	f.StringVar(&v.method, "method", "", "method (default that of --request, or POST); for "+signingURL())
	f.StringVar(&v.url, "url", "", "URL that it was sent to; for "+signingURL())
	f.StringVar(&v.at, "at", "", "when it came in: RFC 3339, or seconds since 1970 (default now)")
	f.DurationVar(&v.tolerance, "tolerance", signer.DefaultTolerance, "how far its time may be from --at")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		asJSON, err := wantsJSON(cmd)
		if err != nil {
			return err
		}
		return v.run(cmd, asJSON)
	}
	return cmd
}

// verifying is one run of the command.
type verifying struct {
	keys                                    keyFlags
	request, headers, body, method, url, at string
	tolerance                               time.Duration
}

// verifyResult is what is shown.
type verifyResult struct {
	Verified bool      `json:"verified"`
	Reason   string    `json:"reason,omitempty"`
	ID       string    `json:"id,omitempty"`
	Time     time.Time `json:"time,omitzero"`
	KeyID    string    `json:"keyId,omitempty"`
	// Replayable: the scheme signs no time, so that it would verify at any other time as well.
	Replayable bool   `json:"replayable,omitempty"`
	Chunk      string `json:"chunk,omitempty"`
}

func (v *verifying) run(cmd *cobra.Command, asJSON bool) error {
	if v.tolerance <= 0 || v.tolerance > 24*time.Hour {
		return usagef("--tolerance: must be more than 0 and at most 24h")
	}
	verifier, err := v.keys.verifier(signer.WithTolerance(v.tolerance))
	if err != nil {
		return err
	}
	now, err := v.now()
	if err != nil {
		return err
	}
	header, request, err := v.read(cmd.InOrStdin())
	if err != nil {
		return err
	}
	if request.URL == "" && verifier.Scheme().Facts().CoversTarget {
		return usagef("--url is needed: scheme %s signs it", verifier.Scheme())
	}
	facts, refused := verifier.Verify(header, request, now)
	result := verifyResult{Verified: refused == nil, ID: facts.ID, Time: facts.Time, KeyID: facts.KeyID, Chunk: facts.Chunk,
		Replayable: verifier.Scheme().Facts().Replayable}
	if refused != nil {
		result = verifyResult{Reason: refused.Error()}
	}
	if err := result.show(cmd.OutOrStdout(), asJSON); err != nil {
		return err
	}
	if errors.Is(refused, signer.ErrStale) {
		return fmt.Errorf("not verified: %w; --at names the time at which it came in", refused)
	}
	if refused != nil {
		return fmt.Errorf("not verified: %w", refused)
	}
	return nil
}

func (r verifyResult) show(out io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	if !r.Verified {
		return nil // the error says it
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row(w, "verified", "yes")
	row(w, "id", dash(r.ID))
	row(w, "signed", signedAt(r.Time))
	row(w, "key", r.KeyID)
	if r.Chunk != "" {
		row(w, "chunk", r.Chunk)
	}
	return w.Flush()
}

// signedAt is the signed time, which not every scheme has.
func signedAt(t time.Time) string {
	if t.IsZero() {
		return "at a time that is not signed: it can be replayed"
	}
	return t.Format(time.RFC3339Nano)
}

func (v *verifying) now() (time.Time, error) {
	if v.at == "" {
		return time.Now(), nil
	}
	if seconds, err := strconv.ParseInt(v.at, 10, 64); err == nil {
		return time.Unix(seconds, 0), nil
	}
	t, err := time.Parse(time.RFC3339, v.at)
	if err != nil {
		return t, usagef("--at: %q is neither RFC 3339, such as 2026-01-02T03:04:05Z, nor seconds since 1970", v.at)
	}
	return t, nil
}

// read has the request from its file or files. What flags say of it goes over what the file does.
func (v *verifying) read(in io.Reader) (header http.Header, r signer.Request, err error) {
	switch {
	case v.request != "" && (v.headers != "" || v.body != ""):
		return nil, r, usagef("--request holds header and body: give it alone, or --headers and --body")
	case v.request != "":
		header, r, err = v.readDump(in)
	case v.headers != "" && v.body != "":
		header, r, err = v.readParts()
	default:
		return nil, r, usagef("give --request, or --headers and --body")
	}
	if v.method != "" {
		r.Method = v.method
	}
	if v.url != "" {
		r.URL = v.url
	}
	return header, r, err
}

func (v *verifying) readDump(in io.Reader) (http.Header, signer.Request, error) {
	var text []byte
	var err error
	if v.request == "-" {
		text, err = io.ReadAll(io.LimitReader(in, maxStored))
	} else {
		text, err = readBounded(v.request, maxStored)
	}
	if err != nil {
		return nil, signer.Request{}, err
	}
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(text)))
	if err != nil {
		return nil, signer.Request{}, fmt.Errorf("request: not an HTTP request: %w", err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, signer.Request{}, fmt.Errorf("request: body: %w", err)
	}
	if len(body) == 0 && r.Header.Get("Content-Length") == "" && r.ContentLength == 0 {
		// A dump without a length: the body is all that stands after the header.
		if _, after, ok := cutHeader(text); ok {
			body = after
		}
	}
	return r.Header, signer.Request{Method: r.Method, Body: body}, nil
}

// cutHeader splits a message after its first empty line.
func cutHeader(text []byte) (header, body []byte, ok bool) {
	for _, end := range []string{"\r\n\r\n", "\n\n"} {
		if header, body, ok = bytes.Cut(text, []byte(end)); ok {
			return header, body, ok
		}
	}
	return text, nil, false
}

func (v *verifying) readParts() (http.Header, signer.Request, error) {
	lines, err := readBounded(v.headers, 1<<20)
	if err != nil {
		return nil, signer.Request{}, err
	}
	body, err := readBounded(v.body, maxStored)
	if err != nil {
		return nil, signer.Request{}, err
	}
	lines = append(bytes.TrimRight(lines, "\r\n"), "\r\n\r\n"...)
	header, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(lines))).ReadMIMEHeader()
	if err != nil {
		return nil, signer.Request{}, fmt.Errorf("headers: not \"name: value\" lines: %w", err)
	}
	return http.Header(header), signer.Request{Method: http.MethodPost, Body: body}, nil
}
