// Package egress is the only way out: it decides which addresses may be dialled, keeps the connections to partners, and
// makes one HTTP request on them.
//
// It promises:
//   - No address is dialled that its Guard did not pass, whatever the name, the resolver or the spelling; every answer
//     of the resolver is checked, and the very address that was checked is dialled.
//   - Where mutual TLS is required, no byte of a body leaves before the server has asked for our certificate and its TLS
//     has taken it. Whether the HTTP server behind it then answers 403 is the receiver's word, not the transport's.
//   - No redirect is followed, no proxy of the environment is used, no session is resumed, nothing is decompressed.
//   - A request is never sent twice by this package once a byte of its body was handed to a connection, except where
//     nothing of the request reached that connection.
//   - Each error carries one Reason of a closed set.
//
// It trusts the operator's allowances, the system's roots where an endpoint names none, and the resolver only to name
// addresses. It trusts no server. It sees bodies as bytes and keeps and logs nothing of them.
package egress
