package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/app"
	"github.com/sealpost/sealpost/store"
)

// serveFlags are the flags that stand for a key of the configuration.
var serveFlags = []struct{ flag, key, usage string }{
	{"data", "data", "folder for everything that is kept (default sealpost-data)"},
	{"grpc", "grpc", "address of the gRPC API (default 127.0.0.1:7780)"},
	{"http", "http", "address of the REST API (default 127.0.0.1:7781)"},
	{"admin", "admin", "address of metrics and health (default 127.0.0.1:7782)"},
	{"public", "public", "one more address, which serves public keys and the CA and nothing else (default none)"},
	{"tls-cert", "tls.cert", "PEM file with the listeners' certificate"},
	{"tls-key", "tls.key", "PEM file with its key"},
	{"nats", "nats.url", "URL of an external NATS server in place of the embedded one"},
	{"nats-durability", "nats.durability", "what it does before it acknowledges: fsync or replicated"},
	{"redis", "redis", "URL of the view in place of the embedded one"},
	{"role", "role", "all, api or relay"},
	{"log-format", "log.format", "text or json"},
	{"log-level", "log.level", "debug, info, warn or error"},
}

const serveHelp = `Run the server: everything embedded, on loopback, where nothing else is configured.

Flags go over SEALPOST_ variables, and those over the configuration file. The file is YAML; a key that is not known is
refused. Durations are written 5s, 10m or 72h, sizes as bytes or as 64MiB. Each key also has a variable:
journal.dedupWindow is SEALPOST_JOURNAL_DEDUP_WINDOW. --print-config shows all keys with the values in force, as a file.

It says "ready", alone on a line of standard error, when it is. SIGTERM and SIGINT stop it: nothing new is accepted and what
is in flight may end. A second signal stops it at once, and nothing that was accepted is lost.

In the data folder it leaves client.yaml for the client commands, and client-ca.pem for partners: the CA of the
certificates that it shows them.`

func newServe() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "serve",
		Short:   "Run the server",
		Long:    serveHelp,
		Args:    cobra.NoArgs,
		Example: "  sealpost serve --dev\n  sealpost serve --config /etc/sealpost.yaml --print-config",
	}
	f := cmd.Flags()
	file := f.String("config", os.Getenv("SEALPOST_CONFIG"), "configuration file")
	show := f.Bool("print-config", false, "show the configuration in force and end")
	dev := f.Bool("dev", false, "also allow http:// and loopback endpoints, active at once; loopback listeners only")
	allow := f.StringArray("egress-allow", nil, "CIDR that may be delivered to although it is not public; may be repeated")
	for _, one := range serveFlags {
		f.String(one.flag, "", one.usage)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		set := map[string]string{}
		for _, one := range serveFlags {
			if f.Changed(one.flag) {
				set[one.key] = f.Lookup(one.flag).Value.String()
			}
		}
		if f.Changed("dev") {
			set["dev"] = fmt.Sprint(*dev)
		}
		if f.Changed("egress-allow") {
			set["egress.allow"] = strings.Join(*allow, ",")
		}
		c, err := loadConfig(*file, os.Environ(), set)
		if err != nil {
			return err
		}
		return serve(cmd.Context(), c, *show, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

// flagOf is the flag that stands for a key.
func flagOf(key string) string {
	for _, one := range serveFlags {
		if one.key == key {
			return one.flag
		}
	}
	return strings.ReplaceAll(key, ".", "-")
}

func serve(ctx context.Context, c config, show bool, out, errs io.Writer) error {
	log, err := newLogger(c.Log, errs)
	if err != nil {
		return err
	}
	c.Logger, c.Version, c.OpenView = log, buildVersion(), openView
	if c.Options, err = c.Options.Effective(); err != nil {
		return usagef("configuration: %v", err)
	}
	if show {
		return printConfig(out, c)
	}
	a, err := app.New(ctx, c.Options)
	if err != nil {
		return err
	}
	addresses := a.Addresses()
	var failed error
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err = a.Run(ctx, func() {
		if failed = writeClientFiles(a, c.Options); failed != nil {
			cancel()
			return
		}
		var listening []any
		for _, name := range slices.Sorted(maps.Keys(addresses)) {
			listening = append(listening, name, addresses[name].String())
		}
		log.Info("listening", listening...)
		log.Info("client file written", "file", filepath.Join(c.Data, clientFileName))
		fmt.Fprintln(errs, "ready")
	})
	if failed != nil {
		return failed
	}
	return err
}

func openView(ctx context.Context, url string, log *slog.Logger) (relay.Ledger, error) {
	return store.Open(ctx, url, store.Options{Logger: log})
}

func newLogger(c logConfig, w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		return nil, usagef("log.level: %q is not one of debug, info, warn, error", c.Level)
	}
	options := &slog.HandlerOptions{Level: level}
	switch c.Format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, usagef("log.format: %q is neither text nor json", c.Format)
}
