/**
 * The edits of a graph, as the server will have them: which nodes are whose chain, and what their
 * inputs say, also through reroutes, primitives, bypassed nodes and subgraphs. Changes nothing.
 * @typedef {{node: any, graph: any, path: {node: any, graph: any}[]}} Place a node, its graph, and
 *     the subgraph nodes that it is inside of, outermost first
 */

export const EDITS = ['P2P_WordSwap', 'P2P_Mix', 'P2P_Refine', 'P2P_Reweight', 'P2P_LocalBlend']
const MOST_EDITS = 8
const MOST_HOPS = 100
const [FROM_OUTSIDE, MUTED, BYPASSED] = [-10, 2, 4]

const linkOf = (/** @type {any} */ graph, /** @type {any} */ id) =>
  id == null ? null : graph.getLink?.(id) ?? graph.links.get?.(id) ?? graph.links[id]

/** @param {any} node @param {string} name */
const inputOf = (node, name) => node.inputs?.find((/** @type {any} */ one) => one.name === name)

/** @param {any} node @param {string} name */
export const widgetOf = (node, name) =>
  node.widgets?.find((/** @type {any} */ one) => one.name === name)

/** Which input a bypassed node passes on at an output: the one at its place, or the first alike. */
function passedOn(/** @type {any} */ node, /** @type {number} */ slot) {
  const type = node.outputs[slot]?.type
  const same = node.inputs?.[slot]
  return same?.type === type ? same : node.inputs?.find((/** @type {any} */ one) => one.type === type)
}

/**
 * Follow an input to the node whose output it gets.
 * @param {Place} place
 * @param {string} name the input
 * @returns {(Place & {promoted?: string}) | null} `promoted` names the widget of a subgraph's node
 *     that the value comes from; null where nothing comes
 */
export function origin({ node, graph, path }, name) {
  let id = inputOf(node, name)?.link
  for (let hop = 0; hop < MOST_HOPS; hop++) {
    const link = linkOf(graph, id)
    if (!link) return null
    if (Number(link.origin_id) === FROM_OUTSIDE) {
      const host = path.at(-1)
      const input = host?.node.inputs?.[link.origin_slot]
      if (!host || !input) return null
      path = path.slice(0, -1)
      if (input.link == null) {
        return { ...host, path, promoted: input.widget?.name ?? input.name }
      }
      graph = host.graph
      id = input.link
      continue
    }
    const from = graph.getNodeById(link.origin_id)
    if (!from || from.mode === MUTED) return null
    if (from.mode === BYPASSED) id = passedOn(from, link.origin_slot)?.link
    else if (from.type === 'Reroute') id = from.inputs?.[0]?.link
    else if (from.subgraph) {
      path = [...path, { node: from, graph }]
      graph = from.subgraph
      id = graph.outputs[link.origin_slot]?.linkIds?.[0]
    } else return { node: from, graph, path }
  }
  return null
}

/**
 * Find the widget that a text input gets its value from: its own, or another node's.
 * @param {Place} place
 * @param {string} name
 * @returns {{node: any, widget: any} | null} null where it is known only when the graph runs
 */
export function source(place, name) {
  for (let hop = 0; hop < MOST_HOPS; hop++) {
    if (inputOf(place.node, name)?.link == null) {
      const widget = widgetOf(place.node, name)
      return widget ? { node: place.node, widget } : null
    }
    const from = origin(place, name)
    if (!from) return null
    if (from.promoted) {
      const widget = widgetOf(from.node, from.promoted)
      return widget ? { node: from.node, widget } : null
    }
    const texts = (from.node.widgets ?? []).filter(
      (/** @type {any} */ one) => typeof one.value === 'string' && one.type !== 'combo'
        && one.serialize !== false)
    if (texts.length !== 1) return null
    place = from
    name = texts[0].name
  }
  return null
}

/**
 * Read a text input; null where it is known only when the graph runs.
 * @param {Place} place
 * @param {string} name
 * @returns {string | null}
 */
export function textOf(place, name) {
  const from = source(place, name)
  return from ? String(from.widget.value ?? '') : null
}

/**
 * Find all nodes of a graph and of the subgraphs in it.
 * @param {any} graph
 * @param {Place['path']} [path]
 * @returns {Place[]}
 */
export function places(graph, path = []) {
  if (!graph || path.length > 10) return []
  return (graph.nodes ?? graph._nodes ?? []).flatMap((/** @type {any} */ node) =>
    node.subgraph
      ? places(node.subgraph, [...path, { node, graph }])
      : [{ node, graph, path }])
}

/**
 * Read the chains of edits that a P2P Controller gets, each from its first edit to its last.
 * @param {Place} controller
 * @returns {Place[][]}
 */
export function chains(controller) {
  const found = []
  for (let number = 1; number <= MOST_EDITS; number++) {
    const chain = []
    let at = origin(controller, `edit_${number}`)
    while (at && EDITS.includes(at.node.type) && chain.length < MOST_HOPS) {
      chain.unshift(at)
      at = origin(at, 'edit')
    }
    if (chain.length) found.push(chain)
  }
  return found
}

/**
 * Find the P2P Controller whose run a node looks at.
 * @param {Place} place
 * @returns {Place | null}
 */
export function controllerOf(place) {
  for (const inputs of [['run', 'controller'], ['controller'], ['positive', 'controller']]) {
    let at = /** @type {Place | null} */ (place)
    for (const name of inputs) at = at && origin(at, name)
    if (at?.node.type === 'P2P_Controller') return at
  }
  return null
}
