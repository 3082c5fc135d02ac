package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/client"
)

// loginWithin bounds how long a person may take to sign in.
const loginWithin = 10 * time.Minute

const loginHelp = `Sign in at the OpenID provider that the server names, in the browser, and keep the token that the server gives for it.

The browser is sent back to a port of this machine (RFC 8252); code, verifier and nonce are made here and never shown. The token is in login.token
beside the client file, or in this folder; the commands that use that client file call with it from then on.`

func newLogin(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "login", Short: "Sign in as a person, in the browser", Long: loginHelp, Args: cobra.NoArgs,
		Example: "  sealpost login\n  sealpost login --server sealpost.example:7780 --ca system --token-out me.token",
	}
	out := cmd.Flags().String("token-out", "", "file for the token (default login.token beside the client file)")
	quiet := cmd.Flags().Bool("no-browser", false, "only say what to open")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		file, err := conn.anonymous()
		if err != nil {
			return err
		}
		if *out != "" {
			file = *out
		}
		c, err := conn.open(client.Options{Target: conn.server, UserAgent: "sealpost/" + buildVersion(), Anonymous: true})
		if err != nil {
			return err
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), loginWithin)
		defer cancel()
		answer, err := signIn(ctx, sealpostv1.NewAccessServiceClient(c.Conn()), cmd.ErrOrStderr(), !*quiet)
		if err != nil {
			return err
		}
		if err := writePrivate(file, []byte(answer.GetSecret()+"\n")); err != nil {
			return fmt.Errorf("token: %w", err)
		}
		answer.Secret = ""
		return show(cmd, answer, func(w io.Writer) {
			tokenTable(w, answer.GetToken(), "")
			row(w, "file", file)
		})
	}
	return cmd
}

// anonymous resolves the server for who has no credential yet, and gives where the token goes.
func (c *connection) anonymous() (file string, err error) {
	given := *c
	if c.server == "" || c.file != "" {
		given.tokenFile = "-" // not needed, and not to be asked for
		if err := given.resolve(); err != nil {
			return "", err
		}
	}
	c.server, c.ca, c.name = given.server, given.ca, given.name
	folder := "."
	name := c.file
	if name == "" {
		name = filepath.Join("sealpost-data", clientFileName)
	}
	if _, err := os.Stat(name); err == nil {
		folder = filepath.Dir(name)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return filepath.Join(folder, loginTokenName), nil
}

// signIn sends the person to the provider and takes them when they come back.
func signIn(ctx context.Context, access sealpostv1.AccessServiceClient, say io.Writer, browser bool) (*sealpostv1.CreateTokenResponse, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	back := "http://" + l.Addr().String() + "/callback"
	state, nonce, verifier := secretText(), secretText(), secretText()
	challenge := sha256.Sum256([]byte(verifier))
	codes := make(chan string, 1)
	failed := make(chan error, 1)
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 32 << 10, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'none'")
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.Header().Set("Cache-Control", "no-store")
		q := r.URL.Query()
		if r.Method != http.MethodGet || r.URL.Path != "/callback" || q.Get("state") != state { // not ours, or forged
			http.NotFound(w, r)
			return
		}
		if q.Has("error") {
			offer(failed, fmt.Errorf("the OpenID provider says: %s: %s", plain(q.Get("error")), plain(q.Get("error_description"))))
			fmt.Fprintln(w, "Not signed in. You can close this page.")
			return
		}
		offer(codes, q.Get("code"))
		fmt.Fprintln(w, "You can close this page and go back to the terminal.")
	})}
	go server.Serve(l)
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		server.Shutdown(stop)
	}()
	begun, err := access.BeginSignIn(ctx, &sealpostv1.BeginSignInRequest{
		RedirectUri: back, State: state, Nonce: nonce, CodeChallenge: base64.RawURLEncoding.EncodeToString(challenge[:]),
	})
	if err != nil {
		return nil, err
	}
	where := begun.GetAuthorizationUrl()
	fmt.Fprintf(say, "Open this to sign in:\n%s\n", plain(where))
	if browser {
		openBrowser(ctx, where)
	}
	select {
	case code := <-codes:
		return access.CompleteSignIn(ctx, &sealpostv1.CompleteSignInRequest{RedirectUri: back, Code: code, CodeVerifier: verifier, Nonce: nonce})
	case err := <-failed:
		return nil, err
	case <-ctx.Done():
		return nil, fmt.Errorf("nobody signed in: %w", ctx.Err())
	}
}

// offer gives the first of what comes.
func offer[T any](to chan T, v T) {
	select {
	case to <- v:
	default:
	}
}

// secretText is 256 random bits, in 43 characters that a URL can hold.
func secretText() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// openBrowser tries; where it cannot, the person opens what they were told.
func openBrowser(ctx context.Context, where string) {
	if !strings.HasPrefix(where, "https://") && !strings.HasPrefix(where, "http://") {
		return
	}
	command := []string{"xdg-open", where}
	switch runtime.GOOS {
	case "darwin":
		command = []string{"open", where}
	case "windows":
		command = []string{"rundll32", "url.dll,FileProtocolHandler", where}
	}
	if cmd := exec.CommandContext(ctx, command[0], command[1:]...); cmd.Start() == nil {
		go cmd.Wait()
	}
}

func newWhoami(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "whoami", Short: "Show who these commands call as, and what it may do", Args: cobra.NoArgs, Example: "  sealpost whoami --identity crm.pem",
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			me, err := sealpostv1.NewAccessServiceClient(c.Conn()).GetCaller(cmd.Context(), &sealpostv1.GetCallerRequest{})
			if err != nil {
				return err
			}
			return show(cmd, me, func(w io.Writer) {
				row(w, "account", me.GetAccount())
				row(w, "tenant", orAll(me.GetTenant()))
				row(w, "role", me.GetRole())
				row(w, "scopes", strings.Join(me.GetScopes(), ","))
				row(w, "by", me.GetCredentialKind(), me.GetCredentialId())
				row(w, "until", when(me.GetExpireTime()))
				row(w, "from", me.GetAddress())
				row(w, "certificate", dash(me.GetCertificateSubject()))
				row(w, "through the hands of", strings.Join(me.GetHands(), ","))
			})
		})
	}
	return cmd
}
