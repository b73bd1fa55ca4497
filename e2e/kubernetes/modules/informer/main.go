// What client-go's informers see: a program of the end-to-end tests.
//
// It keeps a cache of the ConfigMaps of one namespace, asked for as protobuf, and prints each event as a line `add NAME VALUE`, `update NAME
// VALUE` or `delete NAME`, with the value of the key `value`. When its standard input ends it prints `= NAME VALUE` for all in the cache.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	if len(os.Args) != 3 {
		fail("usage: informer KUBECONFIG NAMESPACE")
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	if err != nil {
		fail(err)
	}
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		fail(err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(os.Args[2]))
	informer := factory.Core().V1().ConfigMaps().Informer()
	var printing sync.Mutex
	say := func(words ...any) {
		printing.Lock()
		defer printing.Unlock()
		fmt.Println(words...)
	}
	registered, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { say("add", shown(obj)) },
		UpdateFunc: func(_, obj any) { say("update", shown(obj)) },
		DeleteFunc: func(obj any) {
			if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = last.Obj
			}
			say("delete", obj.(*corev1.ConfigMap).Name)
		},
	})
	if err != nil {
		fail(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), registered.HasSynced) {
		fail("the cache was never complete")
	}
	say("synced", len(informer.GetStore().List()))
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		fail(err)
	}
	for _, obj := range informer.GetStore().List() {
		say("=", shown(obj))
	}
	stop()
	factory.Shutdown()
}

func shown(obj any) string {
	found := obj.(*corev1.ConfigMap)
	return found.Name + " " + found.Data["value"]
}

func fail(why any) {
	fmt.Fprintln(os.Stderr, "informer:", why)
	os.Exit(1)
}
