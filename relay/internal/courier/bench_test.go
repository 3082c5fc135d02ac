package courier

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/signer"
)

// BenchmarkSend is a delivery of 1 KiB to a near receiver, beside a bare loop on a net/http transport tuned alike, which
// signs, records and checks nothing.
func BenchmarkSend(b *testing.B) {
	for _, secure := range []bool{false, true} {
		name := map[bool]string{false: "plain", true: "mTLS"}[secure]
		w := newWorld(b)
		config := (*tls.Config)(nil)
		if secure {
			config = w.secure(tls.RequireAndVerifyClientCert)
		}
		url := serve(b, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			rw.WriteHeader(http.StatusNoContent)
		}), config)
		data := []byte(`{"text":"` + strings.Repeat("x", 1013) + `"}`)
		d := w.delivery(b, url, func(d *relay.Delivery) { d.Data = data })
		for _, scheme := range []signer.Scheme{signer.Standard, signer.RFC9421} {
			s, _ := newSigner(b, scheme)
			ep := *d.Endpoint
			ep.Signer = s
			mine := *d
			mine.Endpoint = &ep
			b.Run(name+"/courier-"+string(scheme), func(b *testing.B) {
				parallel(b, func() bool {
					_, v := w.Handle(context.Background(), &mine)
					return v.Kind == relay.VerdictDone
				})
			})
		}
		b.Run(name+"/bare", func(b *testing.B) {
			transport := bare(w)
			defer transport.CloseIdleConnections()
			parallel(b, func() bool {
				req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(data))
				if err != nil {
					return false
				}
				resp, err := transport.RoundTrip(req)
				if err != nil {
					return false
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				return resp.StatusCode == http.StatusNoContent
			})
		})
	}
}

func bare(w *world) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			_, port, _ := net.SplitHostPort(address)
			return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+port)
		},
		TLSClientConfig:     &tls.Config{RootCAs: w.ca.Roots(), Certificates: []tls.Certificate{w.client}},
		MaxIdleConnsPerHost: 64,
		DisableCompression:  true,
	}
}

func parallel(b *testing.B, send func() bool) {
	b.SetParallelism(4)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if !send() {
				b.Error("not delivered")
				return
			}
		}
	})
}

// BenchmarkPack is the work before the network: rendering, and splitting where it is needed.
func BenchmarkPack(b *testing.B) {
	w := newWorld(b)
	for name, data := range map[string][]byte{"1KiB": []byte(`"` + strings.Repeat("x", 1022) + `"`), "1MiB-paged": export(8000)} {
		d := w.delivery(b, "http://partner.test/", func(d *relay.Delivery) { d.Data = data })
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if p, _ := w.Pack(d); p == nil {
					b.Fatal("refused")
				}
			}
		})
	}
}
