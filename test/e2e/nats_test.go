package e2e_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/sealpost/sealpost/test/rig"
)

// natsServer is a NATS of its own, in this process.
func natsServer(t *testing.T, jetStream bool) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: jetStream, StoreDir: t.TempDir(), SyncAlways: true, NoSigs: true, NoLog: true,
		MaxPayload: 12 << 20, JetStreamMaxStore: 64 << 30, // it reserves what streams may take
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server does not come up")
	}
	return s
}

// TestExternalNATS runs on a server given by URL, through a restart of the process.
func TestExternalNATS(t *testing.T) {
	t.Parallel()
	eachView(t, func(t *testing.T, view rig.Config) {
		s := natsServer(t, true)
		p := start(t, rig.Config{"nats": rig.Config{"url": s.ClientURL(), "durability": "fsync"},
			"journal": rig.Config{"eventsMaxBytes": 1 << 30, "outcomesMaxBytes": 1 << 30}}, view)
		partner := rig.NewPartner(t, nil, nil)
		ep := p.Register(partner.URL, nil)
		p.PublishMany("acme", "e", 300)
		p.AwaitCount("tenant=acme&state=DELIVERED", 300)
		p.MustAct(ep, "pause")
		p.PublishMany("acme", "parked", 300)
		p.AwaitCount("tenant=acme&state=PARKED", 300)
		p.Kill()
		p.Restart(nil)
		if a := p.Publish(rig.Event("e-0", `{"n":0}`)); a["duplicate"] != true {
			t.Errorf("a repeat after a restart: %v", a)
		}
		p.MustAct(ep, "resume")
		p.AwaitCount("tenant=acme&state=DELIVERED", 600)
		if n := partner.Count(); n != 600 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestRefusedStarts gives configurations that must not run, and looks for the reason.
func TestRefusedStarts(t *testing.T) {
	t.Parallel()
	good, without := natsServer(t, true), natsServer(t, false)
	for name, c := range map[string]struct {
		config rig.Config
		says   []string
	}{
		"undeclared durability":        {rig.Config{"nats": rig.Config{"url": good.ClientURL()}}, []string{"durability", "fsync", "replicated"}},
		"no such durability":           {rig.Config{"nats": rig.Config{"url": good.ClientURL(), "durability": "hope"}}, []string{"durability", "hope"}},
		"no JetStream":                 {rig.Config{"nats": rig.Config{"url": without.ClientURL(), "durability": "fsync"}}, []string{"JetStream"}},
		"nobody there":                 {rig.Config{"nats": rig.Config{"url": "nats://127.0.0.1:1", "durability": "fsync"}}, []string{"journal"}},
		"replicas on one server":       {rig.Config{"nats": rig.Config{"url": good.ClientURL(), "durability": "replicated"}}, []string{"replica"}},
		"unknown key":                  {rig.Config{"redish": "redis://localhost"}, []string{"redish", "redis"}},
		"unknown nested key":           {rig.Config{"delivery": rig.Config{"retryInterval": []string{"1s"}}}, []string{"retryInterval", "retryIntervals"}},
		"redis without a scheme":       {rig.Config{"redis": "localhost:6379"}, []string{"redis"}},
		"role":                         {rig.Config{"role": "api"}, []string{"role", "nats", "redis"}},
		"a public listener":            {rig.Config{"dev": false, "http": "0.0.0.0:0"}, []string{"http", "tls"}},
		"a public listener with --dev": {rig.Config{"http": "0.0.0.0:0"}, []string{"http", "dev"}},
		"a CIDR that is none":          {rig.Config{"egress": rig.Config{"allow": []string{"10.0.0.0"}}}, []string{"egress.allow"}},
		"a duration that is none":      {rig.Config{"stopGrace": "soon"}, []string{"stopGrace"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := rig.New(t, binary, rig.Dev().With(c.config))
			if p.Begin() == nil {
				t.Fatal("it runs")
			}
			said := p.Output()
			for _, word := range c.says {
				if !strings.Contains(said, word) {
					t.Errorf("it does not say %q:\n%s", word, said)
				}
			}
		})
	}
}

// TestForeignSecrets starts a second process on a journal with secrets of its own: it is told what to copy, and runs once it has them.
func TestForeignSecrets(t *testing.T) {
	t.Parallel()
	s := natsServer(t, true)
	config := rig.Dev().With(rig.Config{"nats": rig.Config{"url": s.ClientURL(), "durability": "fsync"},
		"journal": rig.Config{"eventsMaxBytes": 1 << 30, "outcomesMaxBytes": 1 << 30}})
	first := rig.Start(t, binary, config)
	second := rig.New(t, binary, config)
	if second.Begin() == nil {
		t.Fatal("it runs with other secrets")
	}
	for _, says := range []string{"secrets.key (fingerprint", "ca (fingerprint", "copy secrets.key and the folder ca", second.Data} {
		if !strings.Contains(second.Output(), says) {
			t.Errorf("it does not say %q:\n%s", says, second.Output())
		}
	}
	second.Join(first)
	if err := second.Begin(); err != nil {
		t.Errorf("with the first one's secrets: %v\n%s", err, second.Tail())
	}
}
