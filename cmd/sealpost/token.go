package main

import (
	"errors"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/client"
)

func newToken(conn *connection) *cobra.Command {
	cmd := group("token", "Make and end the tokens that callers authenticate with", "  sealpost token list")
	cmd.AddCommand(newTokenCreate(conn), newTokenList(conn), newTokenRevoke(conn))
	return cmd
}

func newTokenCreate(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "create", Short: "Make a token; it is shown this once", Args: cobra.NoArgs,
		Example: "  sealpost token create --account crm-backend --role publisher --tenant acme --ttl 720h --secret-out crm.token",
	}
	f := cmd.Flags()
	account := f.String("account", "", "account that acts with it")
	role := f.String("role", "", "publisher, partner or operator")
	tenant := f.String("tenant", "", "its tenant; an operator's may be for all")
	scopes := f.StringSlice("scopes", nil, "only these of the role's scopes, such as events.publish")
	ttl := f.Duration("ttl", 0, "how long it lives, at most 2160h (default 24h)")
	secretOut := f.String("secret-out", "", "write the token to this new file instead of showing it")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		kind, err := enum(sealpostv1.Token_Role_value, "role", *role)
		if err != nil {
			return err
		}
		token := &sealpostv1.Token{Account: *account, Role: sealpostv1.Token_Role(kind), Tenant: *tenant, Scopes: *scopes}
		if f.Changed("ttl") {
			token.Ttl = durationpb.New(*ttl)
		}
		return withClient(conn, func(c *client.Client) error {
			answer, err := sealpostv1.NewAccessServiceClient(c.Conn()).CreateToken(cmd.Context(), &sealpostv1.CreateTokenRequest{Token: token})
			if err != nil {
				return err
			}
			var lost error
			if *secretOut != "" {
				if lost = writeSecret(*secretOut, answer.GetSecret()); lost == nil {
					answer.Secret = ""
				}
			}
			return errors.Join(show(cmd, answer, func(w io.Writer) {
				t := answer.GetToken()
				row(w, "id", t.GetId())
				row(w, "account", t.GetAccount())
				row(w, "role", t.GetRole())
				row(w, "tenant", dash(t.GetTenant()))
				row(w, "expires", when(t.GetExpireTime()))
				if s := answer.GetSecret(); s != "" {
					row(w, "token", s)
				}
			}), lost)
		})
	}
	return cmd
}

func newTokenList(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List tokens; what they are is kept nowhere", Args: cobra.NoArgs,
		Example: "  sealpost token list --tenant acme",
	}
	tenant := cmd.Flags().String("tenant", "", "only of this tenant")
	account := cmd.Flags().String("account", "", "only of this account")
	limit := cmd.Flags().Int("limit", 100, "how many, at most")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			list := &sealpostv1.ListTokensResponse{}
			err := pages(*limit, func(size int32, token string) (int, string, error) {
				page, err := sealpostv1.NewAccessServiceClient(c.Conn()).ListTokens(cmd.Context(),
					&sealpostv1.ListTokensRequest{Tenant: *tenant, Account: *account, PageSize: size, PageToken: token})
				list.Tokens = append(list.Tokens, page.GetTokens()...)
				list.NextPageToken = page.GetNextPageToken()
				return len(page.GetTokens()), page.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			return show(cmd, list, func(w io.Writer) {
				row(w, "ID", "ACCOUNT", "ROLE", "TENANT", "SCOPES", "EXPIRES", "STATE")
				for _, t := range list.GetTokens() {
					row(w, t.GetId(), t.GetAccount(), t.GetRole(), dash(t.GetTenant()), strings.Join(t.GetScopes(), ","),
						when(t.GetExpireTime()), tokenState(t, time.Now()))
				}
			})
		})
	}
	return cmd
}

func tokenState(t *sealpostv1.Token, now time.Time) string {
	switch {
	case t.GetRevokeTime() != nil:
		return "revoked"
	case t.GetExpireTime() != nil && !now.Before(t.GetExpireTime().AsTime()):
		return "expired"
	}
	return "live"
}

func newTokenRevoke(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke ID", Short: "End a token at once", Args: cobra.ExactArgs(1),
		Example: "  sealpost token revoke tok_0123456789abcdef",
	}
	tenant := cmd.Flags().String("tenant", "", "tenant of the token")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			t, err := sealpostv1.NewAccessServiceClient(c.Conn()).RevokeToken(cmd.Context(),
				&sealpostv1.RevokeTokenRequest{Id: args[0], Tenant: *tenant})
			if err != nil {
				return err
			}
			return show(cmd, t, func(w io.Writer) { row(w, "revoked", t.GetId(), t.GetAccount()) })
		})
	}
	return cmd
}
