// Package filter decides by a CEL expression whether an endpoint wants an event.
//
// It promises that a filter is refused when it is written, not when it first
// meets an event, where that can be known; that one evaluation costs a bounded
// amount of work and memory whatever the event holds; and that the same event
// gives the same answer. An evaluation that fails is an error, never a "no" and
// never a "yes": the caller withholds the delivery.
//
// It trusts neither the filter's author nor the event. It is given the redacted
// event, so that a filter can't tell what the policy hides.
package filter

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"
)

// Bounds of a filter.
const (
	// MaxBytes is how long an expression may be.
	MaxBytes = 2048
	// MaxEstimate is the cost, in CEL's units, that an expression may reach over
	// an event whose strings, lists and maps have AssumedSize each.
	MaxEstimate = 10_000_000
	AssumedSize = 256
	// MaxCost is the cost that one evaluation may really reach.
	MaxCost = 1_000_000
	// MaxString is how long a string may be that a filter reads, in bytes. CEL charges
	// for a call after it: this bounds what one call can take before its cost is seen
	// (a cruel pattern on 8 MiB took 2 s, on 1 MiB 0.2 s).
	MaxString = 1 << 20
	// maxMemory bounds what an evaluation builds, in elements.
	maxMemory = 4 << 20

	maxNodes        = 512
	maxNesting      = 32
	maxLoops        = 2 // comprehensions inside one another
	maxRegexProgram = 1000
)

// Why an evaluation failed; match with errors.Is.
var (
	// ErrNoSuchKey is the answer to reading a field that is not there; has() asks first.
	ErrNoSuchKey = errors.New("no such key")
	// ErrCost is the answer to an evaluation that reached MaxCost, and to reading a
	// string longer than MaxString.
	ErrCost = errors.New("cost limit exceeded")
	// ErrInteger is the answer to an integer beyond int64 in what the filter reads.
	ErrInteger = errors.New("integer beyond 64 bits")
	// ErrNumber is the answer to a number too large for a double.
	ErrNumber = errors.New("number beyond a double")
	// ErrEvaluation is the answer to any other failure, such as comparing a string with a number.
	ErrEvaluation = errors.New("evaluation failed")
	// ErrData is the answer to data that are not one JSON value.
	ErrData = errors.New("data are not valid JSON")
)

// SyntaxError says why an expression is refused and where, both from 1; Line is 0
// where the whole expression is meant.
type SyntaxError struct {
	Line, Column int
	Rule         string
}

func (e *SyntaxError) Error() string {
	if e.Line == 0 {
		return e.Rule
	}
	return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Rule)
}

// Input is the event a filter sees, in CEL as the variable event.
type Input struct {
	Tenant, ID, Type string
	Subject          string // "" where there is none or the policy removed it; then it is absent
	Time             time.Time
	Data             []byte // one JSON value
}

// Compiler compiles filters. It is safe for concurrent use; making one takes far
// longer than using it.
type Compiler struct{ env *cel.Env }

// NewCompiler builds the environment of filters: CEL's standard library and the strings extension.
func NewCompiler() (*Compiler, error) {
	env, err := cel.NewEnv(
		cel.Variable("event", cel.MapType(cel.StringType, cel.DynType)),
		ext.Strings(),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		cel.ParserExpressionSizeLimit(MaxBytes),
		cel.ParserRecursionLimit(maxNesting*4),
		cel.ExpressionNodeLimit(maxNodes),
		cel.ExpressionNestingDepthLimit(maxNesting),
		cel.RegexProgramSizeLimit(maxRegexProgram),
		cel.ASTValidators(
			cel.ValidateRegexLiterals(),
			cel.ValidateTimestampLiterals(),
			cel.ValidateDurationLiterals(),
			cel.ValidateComprehensionNestingLimit(maxLoops),
		),
	)
	if err != nil {
		return nil, fmt.Errorf("filter environment: %w", err)
	}
	return &Compiler{env: env}, nil
}

// Compile checks an expression over `event` and returns its filter. event has the
// fields tenant, id, type, time (a timestamp), subject and data. The expression is
// at most MaxBytes long, of type bool, within MaxEstimate, and matches against
// literal patterns only. The error is a *SyntaxError.
func (c *Compiler) Compile(src string) (*Filter, error) {
	switch {
	case len(src) > MaxBytes:
		return nil, &SyntaxError{Rule: fmt.Sprintf("longer than %d bytes", MaxBytes)}
	case strings.TrimSpace(src) == "":
		return nil, &SyntaxError{Line: 1, Column: 1, Rule: "empty expression"}
	}
	checked, issues := c.env.Compile(src)
	if issues.Err() != nil {
		return nil, firstIssue(issues)
	}
	tree := checked.NativeRep()
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, at(tree, tree.Expr().ID(), "the expression must be a condition (bool), not "+checked.OutputType().String())
	}
	use := &usage{tree: tree}
	use.visit(tree.Expr())
	if use.refused != nil {
		return nil, use.refused
	}
	estimate, err := c.env.EstimateCost(checked, assumed{})
	if err != nil {
		return nil, &SyntaxError{Rule: "its cost can't be estimated"}
	}
	if estimate.Max > MaxEstimate {
		return nil, &SyntaxError{Rule: fmt.Sprintf("too costly: more than %d units on lists and strings of %d", MaxEstimate, AssumedSize)}
	}
	program, err := c.env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(MaxCost), cel.MemoryLimit(maxMemory))
	if err != nil {
		return nil, &SyntaxError{Rule: "it can't be made a program: a literal in it is invalid"}
	}
	return &Filter{source: src, program: program, tree: tree, reads: use.reads}, nil
}

// Compile is Compiler.Compile for one filter.
func Compile(src string) (*Filter, error) {
	c, err := NewCompiler()
	if err != nil {
		return nil, err
	}
	return c.Compile(src)
}

// assumed gives every size that the expression itself doesn't fix.
type assumed struct{}

func (assumed) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	if node.ComputedSize() != nil {
		return nil
	}
	size := cost.RangedSizeEstimate(0, AssumedSize)
	return &size
}

func (assumed) EstimateCallCost(_, _ string, _ *cost.AstNode, _ []cost.AstNode) *cost.CallEstimate {
	return nil
}

func firstIssue(issues *cel.Issues) error {
	all := issues.Errors()
	if len(all) == 0 {
		return &SyntaxError{Rule: "invalid expression"}
	}
	first := all[0]
	line, _, _ := strings.Cut(first.Message, "\n")
	return located(first.Location, line)
}

func at(tree *ast.AST, id int64, rule string) error {
	return located(tree.SourceInfo().GetStartLocation(id), rule)
}

// located numbers columns from 1, where CEL counts them from 0.
func located(l common.Location, rule string) error {
	if l == nil || l.Line() < 1 {
		return &SyntaxError{Rule: rule}
	}
	return &SyntaxError{Line: l.Line(), Column: l.Column() + 1, Rule: rule}
}

// Filter is a compiled expression, immutable and safe for concurrent use.
type Filter struct {
	source  string
	program cel.Program
	tree    *ast.AST
	reads   reads
}

// String gives the expression as it was written.
func (f *Filter) String() string { return f.source }

// Match reports whether the event passes. Its errors name what went wrong and
// where in the expression; they never quote the event.
func (f *Filter) Match(in Input) (bool, error) {
	event := newObject(6)
	event.set("tenant", in.Tenant)
	event.set("id", in.ID)
	event.set("type", in.Type)
	event.set("time", types.Timestamp{Time: in.Time.UTC()})
	if in.Subject != "" {
		event.set("subject", in.Subject)
	}
	data, err := f.reads.decode(in.Data)
	if err != nil {
		return false, fmt.Errorf("filter: %w", err)
	}
	event.set("data", data)
	out, _, err := f.program.Eval(map[string]any{"event": event})
	if err != nil {
		return false, f.failure(err)
	}
	pass, ok := out.(types.Bool)
	if !ok {
		return false, fmt.Errorf("filter: %w: the result is not a condition", ErrEvaluation)
	}
	return bool(pass), nil
}

// failure keeps the class of CEL's error and its place, and leaves its text behind,
// which may quote a value.
func (f *Filter) failure(err error) error {
	class := ErrEvaluation
	var limit cost.LimitExceededError
	var limitPtr *cost.LimitExceededError
	switch {
	case errors.As(err, &limit), errors.As(err, &limitPtr), strings.Contains(err.Error(), "limit exceeded"):
		class = ErrCost
	case strings.HasPrefix(err.Error(), "no such key"), strings.HasPrefix(err.Error(), "no such attribute"):
		class = ErrNoSuchKey
	}
	var located *types.Err
	if errors.As(err, &located) && located.NodeID() != 0 {
		if l := f.tree.SourceInfo().GetStartLocation(located.NodeID()); l != nil && l.Line() > 0 {
			return fmt.Errorf("filter: %d:%d: %w", l.Line(), l.Column()+1, class)
		}
	}
	return fmt.Errorf("filter: %w", class)
}
