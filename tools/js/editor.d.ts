// The modules that the editor serves to extensions, and what its published types leave out.

type ComfyApp = import("@comfyorg/comfyui-frontend-types").ComfyApp;
type LGraph = ComfyApp["rootGraph"];
type LGraphNode = NonNullable<ReturnType<LGraph["getNodeById"]>>;
type DOMWidget<T extends HTMLElement> = import("@comfyorg/comfyui-frontend-types").DOMWidget<T, string>;
type DOMWidgetOptions = import("@comfyorg/comfyui-frontend-types").DOMWidgetOptions<string>;

/** What the editor adds to its graph library's nodes. */
type EditorNode = LGraphNode & {
  onExecuted?: (output: Record<string, unknown[] | undefined> | undefined) => void;
  addDOMWidget<T extends HTMLElement>(name: string, type: string, element: T, options: DOMWidgetOptions): DOMWidget<T>;
};

/** What `api.queuePrompt` throws when the server refuses. */
type Refusal = { response?: import("@comfyorg/comfyui-frontend-types").PromptResponse };

declare const LiteGraph: {
  registered_node_types: Record<string, { nodeData?: { output_node?: boolean } } | undefined>;
};

declare module "*/scripts/app.js" {
  export const app: ComfyApp;
}

declare module "*/scripts/api.js" {
  export const api: import("@comfyorg/comfyui-frontend-types").ComfyApi;
}
