package app

// Effective is the options with their defaults, checked: what New would run with. The error names the key, as the
// configuration file has it.
func (o Options) Effective() (Options, error) { return o.withDefaults() }

// ClientRootsPEM is the CA of the certificates that Sealpost presents, for partners to verify them with. It is the
// built-in one also where another certificate was given.
func (a *App) ClientRootsPEM() []byte { return a.ca.RootsPEM() }

// OperatorTokenFile is where the operator's token was written at the first start.
func (a *App) OperatorTokenFile() string { return a.path(fileOperatorToken) }
