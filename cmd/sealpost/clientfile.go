package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/sealpost/sealpost/relay/app"
	"github.com/sealpost/sealpost/relay/client"
)

// Files that serve leaves in its data folder.
const (
	clientFileName = "client.yaml"
	clientCAName   = "client-ca.pem"
	loginTokenName = "login.token" // written by login
)

// clientFile says how the commands of this machine reach a server. File names in it are relative to its own folder.
type clientFile struct {
	Server    string `yaml:"server"`               // gRPC
	HTTP      string `yaml:"http,omitempty"`       // REST
	Admin     string `yaml:"admin,omitempty"`      // metrics and health
	TokenFile string `yaml:"tokenFile,omitempty"`  // one line
	Identity  string `yaml:"identity,omitempty"`   // a client certificate and its key, in place of a token
	CA        string `yaml:"ca,omitempty"`         // PEM; its presence means TLS
	Name      string `yaml:"serverName,omitempty"` // in the server's certificate, where it is not the address
}

// writeClientFiles leaves what clients and partners need in the data folder.
func writeClientFiles(a *app.App, o app.Options) error {
	at := a.Addresses()
	file := clientFile{
		Server: reachable(at["grpc"]), HTTP: reachable(at["http"]), Admin: reachable(at["admin"]),
		TokenFile: filepath.Base(a.OperatorTokenFile()),
	}
	if o.TLS.Cert != "" {
		// On this machine the server's certificate itself is what is trusted.
		cert, err := filepath.Abs(o.TLS.Cert)
		if err != nil {
			return err
		}
		pair, err := tls.LoadX509KeyPair(o.TLS.Cert, o.TLS.Key)
		if err != nil {
			return err
		}
		file.CA = cert
		if leaf := pair.Leaf; len(leaf.DNSNames) > 0 {
			file.Name = leaf.DNSNames[0]
		} else if len(leaf.IPAddresses) > 0 {
			file.Name = leaf.IPAddresses[0].String()
		}
	}
	text, err := yaml.Marshal(file)
	if err != nil {
		return err
	}
	if err := writePrivate(filepath.Join(o.Data, clientFileName), text); err != nil {
		return fmt.Errorf("client file: %w", err)
	}
	if err := writePrivate(filepath.Join(o.Data, clientCAName), a.ClientRootsPEM()); err != nil {
		return fmt.Errorf("client CA: %w", err)
	}
	return nil
}

// reachable is where a client on this machine finds a listener: an address of all interfaces is loopback to it.
func reachable(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return addr.String()
	}
	if tcp.IP.To4() != nil {
		return net.JoinHostPort("127.0.0.1", fmt.Sprint(tcp.Port))
	}
	return net.JoinHostPort("::1", fmt.Sprint(tcp.Port))
}

// writePrivate puts a file in its place whole, for its owner's eyes.
func writePrivate(name string, text []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(text)
	if err = errors.Join(err, temp.Close()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), name)
}

// connection is how the client commands reach the server: by flags, else SEALPOST_ variables, else the client file.
type connection struct {
	server, tokenFile, identity, ca, name, file string
	admin                                       string
}

// Bounds of the files read for a connection.
const (
	maxTokenBytes = 4 << 10
	maxCABytes    = 1 << 20
)

func (c *connection) flags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&c.server, "server", os.Getenv("SEALPOST_SERVER"), "gRPC address of the server")
	f.StringVar(&c.tokenFile, "token-file", os.Getenv("SEALPOST_TOKEN_FILE"), "file with the token to call with")
	f.StringVar(&c.identity, "identity", os.Getenv("SEALPOST_IDENTITY"), "file of a client certificate to call with, as 'sealpost account cert' writes it; renewed as it goes")
	f.StringVar(&c.ca, "ca", os.Getenv("SEALPOST_CA"), "PEM file of roots to trust the server by; \"system\" for the system's")
	f.StringVar(&c.name, "server-name", os.Getenv("SEALPOST_SERVER_NAME"), "name in the server's certificate, where it is not its address")
	f.StringVar(&c.file, "client-file", os.Getenv("SEALPOST_CLIENT_FILE"), "client file that serve wrote (default sealpost-data/client.yaml)")
	f.StringP("output", "o", "table", "table or json")
}

// resolve fills in from the client file what neither flags nor variables said.
func (c *connection) resolve() error {
	name := c.file
	if name == "" {
		if c.server != "" && (c.tokenFile != "" || c.identity != "") {
			return nil
		}
		name = filepath.Join("sealpost-data", clientFileName)
	}
	text, err := readBounded(name, maxConfigBytes)
	if errors.Is(err, fs.ErrNotExist) && c.file == "" {
		if c.server != "" {
			return usagef("--server needs --token-file or --identity: there is no client file with a token for it")
		}
		return usagef("no server is named: run 'sealpost serve' in this folder, or give --server and --token-file or --identity, or --client-file")
	}
	if err != nil {
		return fmt.Errorf("client file: %w", err)
	}
	var file clientFile
	if err := yaml.UnmarshalWithOptions(text, &file, yaml.Strict()); err != nil {
		return fmt.Errorf("client file %s: %w", name, brief(err))
	}
	if c.server != "" && c.server != file.Server {
		// The token in the file is for the file's server: no other one gets to see it.
		if c.tokenFile == "" && c.identity == "" {
			return usagef("--server needs --token-file or --identity: the client file's token is for %s", file.Server)
		}
		return nil
	}
	beside := func(path string) string {
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(filepath.Dir(name), path)
	}
	c.server, c.admin = file.Server, file.Admin
	if c.tokenFile == "" && c.identity == "" {
		c.tokenFile, c.identity = beside(file.TokenFile), beside(file.Identity)
		if _, err := os.Stat(beside(loginTokenName)); err == nil {
			c.tokenFile, c.identity = beside(loginTokenName), "" // who signed in here calls as themselves
		}
	}
	if c.ca == "" {
		c.ca = beside(file.CA)
		if c.name == "" {
			c.name = file.Name
		}
	}
	return nil
}

// dial makes a client. It connects when it is first used.
func (c *connection) dial() (*client.Client, error) {
	if err := c.resolve(); err != nil {
		return nil, err
	}
	options := client.Options{Target: c.server, UserAgent: "sealpost/" + buildVersion()}
	if c.tokenFile != "" {
		token, err := readBounded(c.tokenFile, maxTokenBytes)
		if err != nil {
			return nil, fmt.Errorf("token: %w", err)
		}
		options.Token = strings.TrimSpace(string(token))
	}
	if c.identity != "" {
		var err error
		if options.Identity, err = client.LoadIdentity(c.identity); err != nil {
			return nil, err
		}
	}
	return c.open(options)
}

// open makes a client by options that lack how the server is trusted.
func (c *connection) open(options client.Options) (*client.Client, error) {
	conf, err := c.tls()
	if err != nil {
		return nil, err
	}
	if options.Identity != nil && conf == nil {
		return nil, usagef("--identity takes TLS: give --ca with the server's roots, or --ca system")
	}
	options.TLS = conf
	made, err := client.New(options)
	if errors.Is(err, client.ErrInsecure) {
		return nil, usagef("%s is not a loopback address: give --ca with its roots, or --ca system", c.server)
	}
	return made, err
}

// tls is how the server is trusted; nil for none.
func (c *connection) tls() (*tls.Config, error) {
	switch c.ca {
	case "":
		return nil, nil
	case "system":
		return &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.name}, nil
	}
	pem, err := readBounded(c.ca, maxCABytes)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca: %s holds no certificate", c.ca)
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, ServerName: c.name}, nil
}
