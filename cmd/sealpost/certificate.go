package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/client"
)

func newCertificate(conn *connection) *cobra.Command {
	cmd := group("certificate", "The client certificates that accounts call with", "  sealpost certificate list")
	cmd.AddCommand(newCertificateMap(conn), newCertificateList(conn), newCertificateRevoke(conn))
	return cmd
}

func newCertificateMap(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "map ACCOUNT", Short: "Let an account call with a certificate of another CA", Args: cobra.ExactArgs(1),
		Example: "  sealpost certificate map crm-backend --tenant acme --spiffe-id spiffe://corp.example/ns/crm/sa/backend\n" +
			"  sealpost certificate map crm-backend --tenant acme --certificate crm.crt",
	}
	f := cmd.Flags()
	tenant := f.String("tenant", "", "the account's tenant; none for an account of all")
	spiffe := f.String("spiffe-id", "", "every certificate with this SPIFFE ID, of the CAs that the server's access.roots names")
	file := f.String("certificate", "", "PEM file of the one certificate")
	print := f.String("sha256", "", "SHA-256 of the one certificate, in hex")
	cidrs := f.StringSlice("cidr", nil, "only from these addresses, such as 192.0.2.0/24")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *file != "" {
			text, err := readBounded(*file, maxCABytes)
			if err != nil {
				return err
			}
			block, _ := pem.Decode(text)
			if block == nil || block.Type != "CERTIFICATE" {
				return usagef("--certificate: %s does not begin with a certificate in PEM", *file)
			}
			sum := sha256.Sum256(block.Bytes)
			*print = hex.EncodeToString(sum[:])
		}
		return certificateCall(cmd, conn, func(c sealpostv1.AccessServiceClient) (*sealpostv1.Certificate, error) {
			return c.MapCertificate(cmd.Context(), &sealpostv1.MapCertificateRequest{Certificate: &sealpostv1.Certificate{
				Account: args[0], Tenant: *tenant, Sha256: *print, SpiffeId: *spiffe, Cidrs: *cidrs,
			}})
		})
	}
	return cmd
}

func certificateCall(cmd *cobra.Command, conn *connection, call func(sealpostv1.AccessServiceClient) (*sealpostv1.Certificate, error)) error {
	if _, err := wantsJSON(cmd); err != nil {
		return err
	}
	return withClient(conn, func(c *client.Client) error {
		cert, err := call(sealpostv1.NewAccessServiceClient(c.Conn()))
		if err != nil {
			return err
		}
		return show(cmd, cert, func(w io.Writer) {
			row(w, "id", cert.GetId())
			row(w, "account", cert.GetAccount())
			row(w, "tenant", orAll(cert.GetTenant()))
			row(w, "SPIFFE ID", dash(cert.GetSpiffeId()))
			row(w, "expires", when(cert.GetExpireTime()))
			row(w, "revoked", when(cert.GetRevokeTime()))
		})
	})
}

func newCertificateList(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List accounts' certificates, with their last use", Args: cobra.NoArgs, Example: "  sealpost certificate list --unused 720h",
	}
	tenant := cmd.Flags().String("tenant", "", "only of this tenant")
	account := cmd.Flags().String("account", "", "only of this account")
	unused := cmd.Flags().Duration("unused", 0, "only those that are good and were not used for so long")
	limit := cmd.Flags().Int("limit", 100, "how many, at most")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := wantsJSON(cmd); err != nil {
			return err
		}
		return withClient(conn, func(c *client.Client) error {
			list := &sealpostv1.ListCertificatesResponse{}
			err := pages(*limit, func(size int32, token string) (int, string, error) {
				page, err := sealpostv1.NewAccessServiceClient(c.Conn()).ListCertificates(cmd.Context(), &sealpostv1.ListCertificatesRequest{
					Tenant: *tenant, Account: *account, UnusedFor: lasting(*unused), PageSize: size, PageToken: token,
				})
				list.Certificates = append(list.Certificates, page.GetCertificates()...)
				list.NextPageToken = page.GetNextPageToken()
				return len(page.GetCertificates()), page.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			return show(cmd, list, func(w io.Writer) {
				row(w, "ID", "ACCOUNT", "TENANT", "SPIFFE ID", "EXPIRES", "LAST USE", "STATE")
				for _, cert := range list.GetCertificates() {
					row(w, cert.GetId(), cert.GetAccount(), orAll(cert.GetTenant()), dash(cert.GetSpiffeId()), when(cert.GetExpireTime()), when(cert.GetLastUseTime()),
						certificateState(cert, time.Now()))
				}
			})
		})
	}
	return cmd
}

func certificateState(c *sealpostv1.Certificate, now time.Time) string {
	switch {
	case c.GetRevokeTime() != nil:
		return "revoked"
	case c.GetExpireTime() != nil && !now.Before(c.GetExpireTime().AsTime()):
		return "expired"
	}
	return "live"
}

func newCertificateRevoke(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke ID", Short: "End a certificate at once", Args: cobra.ExactArgs(1),
		Example: "  sealpost certificate revoke \"$(openssl x509 -in crm.pem -noout -fingerprint -sha256 | cut -d= -f2 | tr -d : | tr A-F a-f)\"",
	}
	tenant := cmd.Flags().String("tenant", "", "tenant of its account")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return certificateCall(cmd, conn, func(c sealpostv1.AccessServiceClient) (*sealpostv1.Certificate, error) {
			return c.RevokeCertificate(cmd.Context(), &sealpostv1.RevokeCertificateRequest{Id: args[0], Tenant: *tenant})
		})
	}
	return cmd
}
