package filter

import (
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// usage walks an expression for what it reads of the event and for what CEL would
// let through.
type usage struct {
	tree    *ast.AST
	reads   reads
	refused error
}

// multiplies lists the functions whose result can be the product of two sizes: they
// build it before any limit looks at it.
var multiplies = [...]string{"replace", "join", "format"}

func (u *usage) visit(e ast.Expr) {
	if u.refused != nil || u.reading(e) {
		return
	}
	switch e.Kind() {
	case ast.IdentKind:
		if isEvent(e) {
			u.reads.all = true
		}
	case ast.SelectKind:
		u.visit(e.AsSelect().Operand())
	case ast.CallKind:
		u.call(e, e.AsCall())
	case ast.ListKind:
		u.visitAll(e.AsList().Elements())
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			u.visit(entry.AsMapEntry().Key())
			u.visit(entry.AsMapEntry().Value())
		}
	case ast.StructKind:
		for _, field := range e.AsStruct().Fields() {
			u.visit(field.AsStructField().Value())
		}
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		u.visitAll([]ast.Expr{c.IterRange(), c.AccuInit(), c.LoopCondition(), c.LoopStep(), c.Result()})
	}
}

func (u *usage) visitAll(es []ast.Expr) {
	for _, e := range es {
		u.visit(e)
	}
}

func (u *usage) call(e ast.Expr, c ast.CallExpr) {
	for _, name := range multiplies {
		if c.FunctionName() == name {
			u.refused = at(u.tree, e.ID(), name+"() is not offered to filters")
			return
		}
	}
	if c.FunctionName() == "matches" {
		pattern := c.Args()[len(c.Args())-1]
		if pattern.Kind() != ast.LiteralKind {
			u.refused = at(u.tree, pattern.ID(), "the pattern of matches() must be a literal")
			return
		}
	}
	if c.IsMemberFunction() {
		u.visit(c.Target())
	}
	u.visitAll(c.Args())
}

// reading recognises event.<field> and event.data.<name>, and notes what of the
// data is needed. Any other way to come by the event or its data needs all.
func (u *usage) reading(e ast.Expr) bool {
	from, name, ok := member(e)
	if !ok {
		return false
	}
	if isEvent(from) {
		u.reads.all = u.reads.all || name == "data"
		return true
	}
	if event, field, ok := member(from); ok && field == "data" && isEvent(event) {
		u.reads.add(name)
		return true
	}
	return false
}

// member takes apart x.name and x['name'].
func member(e ast.Expr) (ast.Expr, string, bool) {
	switch e.Kind() {
	case ast.SelectKind:
		s := e.AsSelect()
		return s.Operand(), s.FieldName(), true
	case ast.CallKind:
		c := e.AsCall()
		if c.FunctionName() != operators.Index || len(c.Args()) != 2 || c.Args()[1].Kind() != ast.LiteralKind {
			return nil, "", false
		}
		name, ok := c.Args()[1].AsLiteral().(types.String)
		return c.Args()[0], string(name), ok
	}
	return nil, "", false
}

// isEvent recognises the variable, written event or .event. A loop's variable of the
// same name passes for it, which can only make the filter read more.
func isEvent(e ast.Expr) bool {
	return e.Kind() == ast.IdentKind && strings.TrimPrefix(e.AsIdent(), ".") == "event"
}
