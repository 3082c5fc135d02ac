package egress

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"
)

func headOf(text string) (head, error) {
	r := headReader{in: bufio.NewReaderSize(strings.NewReader(text), 4<<10), left: maxResponseHeader}
	return r.read()
}

func TestHeads(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("v", 10<<10)
	for text, want := range map[string]head{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n":                                       {status: 200, length: 5},
		"HTTP/1.1 200\r\ncontent-length:5\r\n\r\n":                                           {status: 200, length: 5},
		"HTTP/1.1  200 OK\nContent-Length: 5\n\n":                                            {status: 200, length: 5},
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCONTENT-LENGTH: 5\r\n\r\n":                  {status: 200, length: 5},
		"HTTP/1.1 200 OK\r\nX: " + long + "\r\nContent-Length: 5\r\n\r\n":                    {status: 200, length: 5},
		"HTTP/1.1 200 " + long + "\r\nContent-Length: 5\r\n\r\n":                             {status: 200, length: 5},
		"HTTP/1.1 200 OK\r\nX: a\r\n  folded\r\nContent-Length: 5\r\n\r\n":                   {status: 200, length: 5},
		"HTTP/1.1 200 OK\r\nX Y: a\r\nContent-Length: 5\r\n\r\n":                             {status: 200, length: 5},
		"HTTP/1.1 200 OK\r\nX: \xff\r\nContent-Length: 5\r\n\r\n":                            {status: 200, length: 5},
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: x, Close\r\n\r\n":               {status: 200, length: 5, last: true},
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: closed\r\n\r\n":                 {status: 200, length: 5},
		"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n":             {status: 200, length: 5, last: true},
		"HTTP/1.1 200 OK\r\n\r\n":                                                            {status: 200, length: -1, last: true},
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n":                              {status: 200, length: -1, chunked: true},
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n":         {status: 200, length: -1, chunked: true, last: true},
		"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n":         {status: 200, length: 5, last: true},
		"HTTP/1.1 204 No Content\r\n\r\n":                                                    {status: 204},
		"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n":                               {status: 204, last: true},
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n":                             {status: 304},
		"HTTP/1.1 100 Continue\r\n\r\n":                                                      {status: 100},
		"HTTP/1.1 101 Switching Protocols\r\n\r\n":                                           {status: 101, last: true},
		"HTTP/1.1 999 ?\r\nContent-Length: 0\r\n\r\n":                                        {status: 999},
		"HTTP/1.1 503 No\r\nRetry-After:  7 \r\nRetry-After: 8\r\nContent-Length: 0\r\n\r\n": {status: 503, retryAfter: "7"},
	} {
		if got, err := headOf(text); got != want || err != nil {
			t.Errorf("%.80q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for text, want := range map[string]error{
		"": io.ErrUnexpectedEOF, "HTTP/1.1 200 OK\r\n": io.ErrUnexpectedEOF, "HTTP/1.1 200 OK\r\nX: y": io.ErrUnexpectedEOF,
		"\r\nHTTP/1.1 200 OK\r\n\r\n": errHead, "HTTP/1.1\r\n\r\n": errHead, "HTTP/1.1 20\r\n\r\n": errHead, "HTTP/1.1 2000\r\n\r\n": errHead,
		"HTTP/1.1 +20 OK\r\n\r\n": errHead, "HTTP/1.1 099 OK\r\n\r\n": errHead, "HTTP/1.2 200 OK\r\n\r\n": errHead, "HTTP/2.0 200 OK\r\n\r\n": errHead, "http/1.1 200 OK\r\n\r\n": errHead,
		"HTTP/1.1 200 OK\r\n X: y\r\n\r\n":                                                    errHead,
		"HTTP/1.1 200 OK\r\nX\r\n\r\n":                                                        errHead,
		"HTTP/1.1 200 OK\r\n: y\r\n\r\n":                                                      errHead,
		"HTTP/1.1 200 OK\r\nX\t: y\r\n\r\n":                                                   errHead,
		"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n":                                                  errHead,
		"HTTP/1.1 200 OK\r\nX: " + long + "\x00\r\n\r\n":                                      errHead,
		"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n":                                       errHead,
		"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n":                                          errHead,
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n":                                       errHead,
		"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n":                                       errHead,
		"HTTP/1.1 200 OK\r\nContent-Length: 0x1\r\n\r\n":                                      errHead,
		"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n":                                     errHead,
		"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\n":                      errHead,
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n":                   errHead,
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 01\r\n\r\n":                  errHead,
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n 2\r\n\r\n":                                  errHead,
		"HTTP/1.1 200 OK\r\nContent-Length: 1" + strings.Repeat(" ", 5<<10) + "\r\n\r\n":      errHead,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n":                                  errHead,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n":                         errHead,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n": errHead,
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("v", 70<<10) + "\r\n\r\n":                   errLarge,
		"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 20<<10) + "\r\n":                   errLarge,
	} {
		if got, err := headOf(text); !errors.Is(err, want) {
			t.Errorf("%.80q: %+v, %v; want %v", text, got, err, want)
		}
	}
	// The line's end may lie on either side of the buffer's.
	for n := 4080; n < 4100; n++ {
		if got, err := headOf("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("v", n) + "\r\nContent-Length: 5\r\n\r\n"); err != nil || got.length != 5 {
			t.Errorf("a line of %d: %+v, %v", n, got, err)
		}
	}
}

// What is taken here means to net/http the same: the status, how long the body is and what is in it, and that the connection
// is at its end. It may take more, in the ways that headReader names; of trailers, only where they end matters here.
func FuzzHead(f *testing.F) {
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\nmore",
		"HTTP/1.0 503 No\nRetry-After: 5\nConnection: Keep-Alive\n\nto the end", "HTTP/1.1 204 No\r\nContent-Length: 3\r\n\r\nabc",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length: 5\r\nX: a\r\n\tb\r\nConnection: a, close\r\n\r\nhello",
		"HTTP/1.1 304 No\r\nX Y: z\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		own := headReader{in: bufio.NewReaderSize(bytes.NewReader(text), 4<<10), left: maxResponseHeader}
		h, err := own.read()
		theirs := bufio.NewReaderSize(bytes.NewReader(text), 4<<10)
		resp, theirErr := http.ReadResponse(theirs, &http.Request{Method: http.MethodPost})
		if err != nil {
			if theirErr == nil && !odd(text) {
				t.Fatalf("%q: %v, and net/http takes it", text, err)
			}
			return
		}
		if theirErr != nil {
			if strings.Contains(theirErr.Error(), "bad trailer key") {
				return // announced trailers are nothing to us
			}
			t.Fatalf("%q: %+v, and net/http says %v", text, h, theirErr)
		}
		if h.status != resp.StatusCode || h.retryAfter != strings.TrimRight(resp.Header.Get("Retry-After"), " \t") || h.chunked != (len(resp.TransferEncoding) > 0 && resp.Body != http.NoBody) ||
			resp.Close && !h.last || h.status >= 200 && h.length != resp.ContentLength && !(h.length == 0 && resp.Body == http.NoBody) {
			t.Fatalf("%q: %+v, and to net/http %+v", text, h, resp)
		}
		got, failed := readBody(h, &own)
		want, theirFailed := io.ReadAll(resp.Body)
		if !bytes.Equal(got, want) {
			t.Fatalf("%q: %q, and to net/http %q", text, got, want)
		}
		if failed == nil && theirFailed != nil && !strings.Contains(theirFailed.Error(), "trailer") {
			t.Fatalf("%q: a whole body, and to net/http %v", text, theirFailed)
		}
		if failed == nil && theirFailed == nil && !h.last {
			rest, _ := io.ReadAll(own.in)
			theirRest, _ := io.ReadAll(theirs)
			if !bytes.Equal(rest, theirRest) {
				t.Fatalf("%q: leaves %q, net/http %q", text, rest, theirRest)
			}
		}
	})
}

// readBody reads a body as lineBody does.
func readBody(h head, r *headReader) ([]byte, error) {
	switch {
	case h.chunked:
		b, err := io.ReadAll(httputil.NewChunkedReader(r.in))
		if err == nil {
			err = r.trailer()
		}
		return b, err
	case h.length < 0:
		return io.ReadAll(r.in)
	}
	b, err := io.ReadAll(io.LimitReader(r.in, h.length))
	if err == nil && int64(len(b)) < h.length {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// odd is whether the text has what headReader refuses and net/http takes.
func odd(text []byte) bool {
	lower := bytes.ToLower(text)
	version := bytes.HasPrefix(text, []byte("HTTP/1.0 ")) || bytes.HasPrefix(text, []byte("HTTP/1.1 "))
	_, status, known := parseStatusLine(bytes.TrimRight(append(append([]byte{}, text...), ' '), "\n"))
	folded := bytes.Contains(text, []byte("\n ")) || bytes.Contains(text, []byte("\n\t"))
	framing := bytes.Contains(lower, []byte("content-length")) || bytes.Contains(lower, []byte("transfer-encoding")) ||
		bytes.Contains(lower, []byte("connection")) || bytes.Contains(lower, []byte("retry-after"))
	return !version || !known || status < 100 || len(text) > 4<<10 || (folded || bytes.Contains(text, []byte(" :"))) && framing
}
