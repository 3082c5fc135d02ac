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
	conf, err := a.o.TLS.config()
	if err != nil {
		return err
	}
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
	} {
		socket, err := (&net.ListenConfig{}).Listen(ctx, "tcp", one.address)
		if err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
		l := one.server(socket, conf)
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

// config is TLS for our listeners, nil where there is none.
func (t ListenerTLS) config() (*tls.Config, error) {
	if t.Cert == "" {
		return nil, nil
	}
	pair, err := pki.LoadPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}}
	// A client certificate is asked for and not required; whose it is, access says of each call.
	conf.ClientAuth = tls.RequestClientCert
	if t.AllowTLS12 {
		conf.MinVersion = tls.VersionTLS12
	}
	return conf, nil
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
