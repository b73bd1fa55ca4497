// What Prometheus thinks of alerts and expressions: a program of the end-to-end tests.
//
// It reads a rule file from standard input, as `promtool check rules` does, or with the argument `expressions` a JSON list of PromQL
// expressions. It prints a JSON object: `errors`, and `selectors`, for each expression the series that it selects and their equality matchers.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"

	_ "github.com/prometheus-operator/prometheus-operator/pkg/versionutil" // go.mod has its version, and tests its CRDs
)

type selector struct {
	Metric string            `json:"metric"`
	Equal  map[string]string `json:"equal"`
}

type verdict struct {
	Errors    []string     `json:"errors"`
	Selectors [][]selector `json:"selectors"`
}

func main() {
	given, err := io.ReadAll(os.Stdin)
	if err != nil {
		fail(err)
	}
	found := verdict{Errors: []string{}, Selectors: [][]selector{}}
	var expressions []string
	if len(os.Args) == 2 && os.Args[1] == "expressions" {
		if err := json.Unmarshal(given, &expressions); err != nil {
			fail(err)
		}
	} else {
		groups, errs := rulefmt.Parse(given, false)
		for _, err := range errs {
			found.Errors = append(found.Errors, err.Error())
		}
		if groups != nil && len(errs) == 0 {
			for _, group := range groups.Groups {
				for _, rule := range group.Rules {
					expressions = append(expressions, rule.Expr)
				}
			}
		}
	}
	for _, text := range expressions {
		selectors, err := selected(text)
		if err != nil {
			found.Errors = append(found.Errors, fmt.Sprintf("%s: %v", text, err))
		}
		found.Selectors = append(found.Selectors, selectors)
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		fail(err)
	}
}

func selected(text string) ([]selector, error) {
	expression, err := parser.ParseExpr(text)
	if err != nil {
		return []selector{}, err
	}
	found := []selector{}
	for _, matchers := range parser.ExtractSelectors(expression) {
		one := selector{Equal: map[string]string{}}
		for _, matcher := range matchers {
			if matcher.Type != labels.MatchEqual {
				continue
			}
			if matcher.Name == labels.MetricName {
				one.Metric = matcher.Value
			} else {
				one.Equal[matcher.Name] = matcher.Value
			}
		}
		found = append(found, one)
	}
	return found, nil
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
