package client_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"log"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/client"
)

// server is a relay in memory, for the examples.
func server() (target string, stop func()) {
	t := &exampleT{}
	target, stop = listen(t, newFlaky(), "127.0.0.1:0", nil)
	return target, stop
}

// exampleT lets an example use what the tests use.
type exampleT struct{ testing.TB }

func (*exampleT) Helper()           {}
func (*exampleT) Cleanup(func())    {}
func (*exampleT) Fatal(args ...any) { log.Fatal(args...) }
func (*exampleT) Error(args ...any) { log.Print(args...) }

func rootsOf(s *httptest.Server) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return pool
}

func Example() {
	target, stop := server() // "127.0.0.1:7780" of a relay on this machine
	defer stop()

	c, err := client.New(client.Options{Target: target, Token: "good"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	receipt, err := c.Publish(ctx, relay.Event{
		Tenant: "acme", ID: "evt_1", Type: "contact.updated", Subject: "contact/42",
		Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Data: []byte(`{"email":"ada@example.com","country":"DE"}`),
	})
	if err != nil {
		log.Fatal(err) // it may be published again: with the same id it is kept once
	}
	fmt.Println(receipt.ID, receipt.Duplicate)
	// Output: evt_1 false
}

func ExamplePublisher() {
	target, stop := server()
	defer stop()
	c, err := client.New(client.Options{Target: target, Token: "good"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	p := c.NewPublisher(client.PublisherOptions{})
	kept := 0 // outcomes come one after the other
	for i := range 100 {
		e := relay.Event{Tenant: "acme", ID: fmt.Sprintf("evt_%d", i), Type: "deal.won", Data: []byte(`{"amount":100}`)}
		err := p.Publish(ctx, e, func(r client.Receipt, err error) {
			if err != nil {
				log.Print(err)
				return
			}
			kept++
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	if err := p.Close(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(kept)
	// Output: 100
}
