package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"

	"google.golang.org/grpc"

	"github.com/sealpost/sealpost/relay/internal/api"
	"github.com/sealpost/sealpost/relay/internal/pki"
)

// loopback is what --dev opens in the egress guard.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// listener is one address with what serves it.
type listener struct {
	net.Listener
	name  string
	serve func() error
	stop  func(context.Context)
}

// listen takes the addresses, so that a taken one is found out before anything runs.
func (a *App) listen(ctx context.Context) error {
	for _, one := range []struct {
		name, address string
		server        func(net.Listener, *tls.Config) listener
	}{
		{"grpc", a.o.GRPC, a.grpcListener},
		{"http", a.o.HTTP, func(l net.Listener, c *tls.Config) listener {
			return httpListener(l, c, api.NewHTTPServer(a.withWellKnown(a.api.HTTP())))
		}},
		{"admin", a.o.Admin, func(l net.Listener, c *tls.Config) listener {
			return httpListener(l, c, api.NewHTTPServer(a.admin()))
		}},
		{"public", a.o.Public, func(l net.Listener, c *tls.Config) listener {
			return httpListener(l, c, api.NewHTTPServer(a.publicOnly()))
		}},
	} {
		if one.address == "" {
			continue
		}
		socket, err := (&net.ListenConfig{}).Listen(ctx, "tcp", one.address)
		if err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
		l := one.server(socket, a.tls())
		l.name = one.name
		a.listeners = append(a.listeners, l)
		a.onClose(one.name, func(context.Context) error {
			if err := l.Close(); !errors.Is(err, net.ErrClosed) {
				return err
			}
			return nil
		})
	}
	return nil
}

// grpcListener serves gRPC, which brings its own TLS.
func (a *App) grpcListener(l net.Listener, _ *tls.Config) listener {
	server := a.api.GRPC()
	return listener{
		Listener: l,
		serve: func() error {
			if err := server.Serve(l); !errors.Is(err, grpc.ErrServerStopped) {
				return err
			}
			return nil
		},
		stop: a.api.Stop,
	}
}

func httpListener(l net.Listener, conf *tls.Config, server *http.Server) listener {
	serving := l
	if conf != nil {
		serving = tls.NewListener(l, conf)
	}
	return listener{
		Listener: l,
		serve: func() error {
			if err := server.Serve(serving); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		},
		stop: func(ctx context.Context) {
			if server.Shutdown(ctx) != nil {
				server.Close()
			}
		},
	}
}

// openCertificates reads the certificates that are given in files: that of our listeners, and the one presented to endpoints.
func (a *App) openCertificates(context.Context) (err error) {
	if t := a.o.TLS; t.Cert != "" {
		if a.listenerCert, err = pki.Watch(t.Cert, t.Key, a.o.Clock, a.log); err != nil {
			return fmt.Errorf("tls: %w", err)
		}
	}
	if c := a.o.ClientCert; c.Cert != "" {
		if a.clientCert, err = pki.Watch(c.Cert, c.Key, a.o.Clock, a.log); err != nil {
			return fmt.Errorf("clientCertificate: %w", err)
		}
	}
	return nil
}

// tls is for our listeners, nil where there is none. Each handshake has the certificate that is in the files by then.
func (a *App) tls() *tls.Config {
	if a.listenerCert == nil {
		return nil
	}
	conf := &tls.Config{GetCertificate: a.listenerCert.GetCertificate, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}}
	// A client certificate is asked for and not required; whose it is, access says of each call.
	conf.ClientAuth = tls.RequestClientCert
	if a.o.TLS.AllowTLS12 {
		conf.MinVersion = tls.VersionTLS12
	}
	return conf
}

// natsTLS is for a connection to an external server with roots of its own.
func natsTLS(n NATS) (*tls.Config, error) {
	if n.CA == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(n.CA)
	if err != nil {
		return nil, fmt.Errorf("nats.ca: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("nats.ca: %s holds no certificate", n.CA)
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, nil
}
