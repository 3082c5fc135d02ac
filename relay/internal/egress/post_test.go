package egress

import (
	"fmt"
	"io"
	"net/http"
)

// RoundTrip posts what a request of net/http holds, so that tests can say it in the words of that package.
func (p *Pool) RoundTrip(req *http.Request, to *Prepared) (*Response, Facts, error) {
	fail := func(err error) (*Response, Facts, error) {
		return nil, Facts{}, &Error{Reason: TransportOther, Err: err}
	}
	target, err := NewTarget(req.URL)
	if err != nil {
		return fail(err)
	}
	if req.GetBody == nil || req.ContentLength <= 0 {
		return fail(fmt.Errorf("%w: no body to be had", ErrRequest))
	}
	reader, err := req.GetBody()
	if err != nil {
		return fail(err)
	}
	body, err := io.ReadAll(reader)
	if err != nil {
		return fail(err)
	}
	return p.Post(req.Context(), &Post{Target: target, Header: req.Header, Body: body}, to)
}
