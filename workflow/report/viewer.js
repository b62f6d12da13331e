'use strict';
// The viewer of a section's page: one map of before and after, drawn by OpenSeadragon from plain files beside the page.
{
  const root = document.documentElement;
  window.addEventListener('error', (event) => { root.dataset.error = event.message; });
  window.addEventListener('unhandledrejection', (event) => { root.dataset.error = String(event.reason); });

  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const data = JSON.parse(one('#section-data').textContent);
  const { columns: entries, rows } = data.regions;
  data.regions = rows.map((row) => Object.fromEntries(row.map((value, i) => [entries[i], value])));
  const [height, width] = data.shape;
  const regions = new Map(data.regions.map((region) => [region.number, region]));
  const order = data.regions.map((region) => region.number);
  for (const element of all('[data-script][hidden]')) element.hidden = false;

  // --- tiles --------------------------------------------------------------------------------------------------------

  // Which tiles there are, by level: runs of neighbours, counted row by row.
  function tilesOf(levels) {
    return new Map(Object.entries(levels).map(([level, runs]) => {
      const tiles = new Set();
      for (let i = 0; i < runs.length; i += 2) for (let n = 0; n < runs[i + 1]; n += 1) tiles.add(runs[i] + n);
      return [Number(level), tiles];
    }));
  }

  const before = tilesOf(data.tiles.before);
  const mended = tilesOf(data.tiles.mended);
  const columnsAt = (level) => Math.ceil(width / (data.tile_px * 2 ** level));

  // OpenSeadragon counts levels from the coarsest, we from the finest.
  function source(layer) {
    const levelOf = (theirs) => data.levels - 1 - theirs;
    const has = (tiles, theirs, x, y) => Boolean(tiles.get(levelOf(theirs))?.has(y * columnsAt(levelOf(theirs)) + x));
    return {
      width,
      height,
      tileWidth: data.tile_px,
      tileHeight: data.tile_px,
      tileOverlap: 0,
      minLevel: 0,
      maxLevel: data.levels - 1,
      tileExists: (level, x, y) => has(before, level, x, y),
      // Where a tile holds nothing mended, an empty one covers the coarser one beneath, which would show through.
      getTileUrl: (level, x, y) => {
        if (layer === 'before') return `${data.tiled}/before/${levelOf(level)}/${x}_${y}.${levelOf(level) ? 'webp' : 'png'}`;
        return has(mended, level, x, y) ? `${data.tiled}/${layer}/${levelOf(level)}/${x}_${y}.png` : `${data.tiled}/none.png`;
      },
      hasTransparency: () => layer !== 'before',
    };
  }

  // --- panes: the first shows before and after with a divider, or before alone; the second after alone ----------------

  const still = window.matchMedia('(prefers-reduced-motion: reduce)').matches;
  const Rect = OpenSeadragon.Rect;
  const Point = OpenSeadragon.Point;
  const state = { mode: 'curtain', at: 50, chosen: null, layers: new Set(), decisions: new Map(), leader: null, pixel: null, isPinned: false, atSource: false };
  const panes = [];

  function openPane(element, sides) {
    const sea = one('.sea', element);
    const viewer = OpenSeadragon({
      element: sea,
      drawer: 'canvas', // WebGL stays blank for pictures of a disk
      showNavigationControl: false,
      maxZoomPixelRatio: 12,
      minZoomImageRatio: 0.8,
      visibilityRatio: 0.3,
      smoothTileEdgesMinZoom: Infinity,
      imageSmoothingEnabled: true,
      animationTime: still ? 0 : 0.5,
      springStiffness: 8,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: true },
      zoomPerScroll: 1.3,
      preserveImageSizeOnResize: true,
    });
    const pane = { element, viewer, canvas: one('canvas.drawn', element), sides, layers: {}, ready: false };
    viewer.canvas.setAttribute('role', 'application');
    viewer.canvas.setAttribute('aria-label', 'Picture of the section. Arrow keys move it, plus and minus zoom, 0 shows all of it.');
    const names = ['before', 'after', 'mended', ...(data.uncertainty ? ['uncertainty'] : []), ...(data.origin ? ['origin'] : [])];
    let waiting = names.length;
    names.forEach((name, index) => viewer.addTiledImage({
      tileSource: source(name),
      index,
      x: 0,
      y: 0,
      width: 1,
      opacity: name === 'before' || name === 'after' ? 1 : 0,
      preload: name === 'after',
      success: ({ item }) => {
        pane.layers[name] = item;
        item.addHandler('fully-loaded-change', tellBusy);
        waiting -= 1;
        if (waiting) return;
        pane.ready = true;
        pane.whenReady?.();
        refresh();
      },
    }));
    viewer.addHandler('tile-load-failed', () => { one('#lost').hidden = false; });
    const follow = () => { sharpen(pane); layOut(pane); syncFrom(pane); };
    for (const event of ['update-viewport', 'zoom', 'pan', 'animation', 'resize']) viewer.addHandler(event, follow);
    for (const event of ['key', 'scroll', 'drag', 'pinch', 'double-click']) viewer.addHandler(`canvas-${event}`, () => { state.leader = pane; });
    viewer.addHandler('canvas-click', (event) => {
      if (!event.quick) return;
      if (state.layers.has('origin')) tellPixel(pixelAt(pane, event.position), { isPinned: true });
      const found = regionAt(pane, event.position);
      if (found !== null) choose(found, { moves: false });
    });
    if (data.origin) {
      new OpenSeadragon.MouseTracker({
        element: viewer.container,
        moveHandler: ({ position, pointerType }) => {
          if (!state.layers.has('origin') || state.isPinned || pointerType === 'touch') return;
          tellPixel(pixelAt(pane, position));
        },
      });
    }
    // Turning and mirroring a section would only confuse; letters are the page's.
    viewer.addHandler('canvas-key', (event) => {
      if (/^[a-z]$/i.test(event.originalEvent.key)) event.preventDefaultAction = true;
    });
    panes.push(pane);
    return pane;
  }

  // Until all tiles in sight have come, as assistive software and tests want to know.
  function tellBusy() {
    const isBusy = panes.some((pane) => Object.values(pane.layers).some((layer) => layer.getOpacity() > 0 && !layer.getFullyLoaded()));
    one('#viewer').setAttribute('aria-busy', isBusy);
  }

  // The pane that was touched last moves the other; were both to follow each other, neither would get anywhere.
  function syncFrom(pane) {
    if (state.mode !== 'sides' || pane !== state.leader) return;
    for (const other of panes) {
      if (other === pane || !other.ready) continue;
      other.viewer.viewport.zoomTo(pane.viewer.viewport.getZoom(true) * pane.viewer.viewport.getContainerSize().x / other.viewer.viewport.getContainerSize().x, null, true);
      other.viewer.viewport.panTo(pane.viewer.viewport.getCenter(true), true);
    }
  }

  function lead() {
    [state.leader] = panes;
    return panes[0].viewer.viewport;
  }

  // Single pixels are seen as squares, not blurred.
  function sharpen(pane) {
    const isSmooth = pixelsOf(pane) < 2;
    if (pane.isSmooth === isSmooth) return;
    pane.isSmooth = isSmooth;
    pane.viewer.drawer.setImageSmoothingEnabled(isSmooth);
  }

  // Screen pixels a pixel of the scan.
  function pixelsOf(pane) {
    return pane.viewer.viewport.getZoom(true) * pane.viewer.viewport.getContainerSize().x / width;
  }

  // --- the curtain ----------------------------------------------------------------------------------------------------

  const wiper = one('#wiper');

  function clip(pane) {
    if (!pane.ready) return;
    const { viewport } = pane.viewer;
    const isWiped = pane.sides === 'both' && state.mode === 'curtain';
    const hidesAfter = pane.sides === 'both' && state.mode === 'sides';
    const from = viewport.viewerElementToViewportCoordinates(new Point(viewport.getContainerSize().x * state.at / 100, 0)).x * width;
    const left = Math.min(Math.max(isWiped ? from : 0, 0), width);
    const shown = { after: 1, mended: state.layers.has('tint') ? 0.38 : 0, uncertainty: state.layers.has('uncertainty') ? 0.9 : 0, origin: state.layers.has('origin') ? 0.5 : 0 };
    for (const [name, opacity] of Object.entries(shown)) {
      const layer = pane.layers[name];
      if (!layer) continue;
      const wanted = hidesAfter || left >= width ? 0 : opacity;
      if (layer.getOpacity() !== wanted) layer.setOpacity(wanted);
      const clipped = layer.getClip();
      if (isWiped && (!clipped || Math.abs(clipped.x - left) > 0.01)) layer.setClip(new Rect(left, 0, Math.max(width - left, 0.001), height));
      if (!isWiped && clipped) layer.setClip(null);
    }
  }

  function wipe(at) {
    state.at = Math.min(Math.max(at, 0), 100);
    wiper?.setAttribute('aria-valuenow', Math.round(state.at));
    wiper?.setAttribute('aria-valuetext', state.at === 0 ? 'all after' : state.at === 100 ? 'all before' : `${Math.round(state.at)} % before`);
    showWipe();
    refresh();
  }

  function showWipe() {
    for (const button of all('[data-wipe]')) button.setAttribute('aria-pressed', state.mode === 'curtain' && Number(button.dataset.wipe) === state.at);
  }

  if (wiper) {
    const drag = (event) => {
      const box = panes[0].element.getBoundingClientRect();
      wipe((event.clientX - box.left) / box.width * 100);
    };
    wiper.addEventListener('pointerdown', (event) => {
      event.preventDefault();
      wiper.setPointerCapture(event.pointerId);
      wiper.focus();
      wiper.addEventListener('pointermove', drag);
    });
    for (const end of ['pointerup', 'pointercancel']) wiper.addEventListener(end, () => wiper.removeEventListener('pointermove', drag));
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -100, End: 100 };
    wiper.addEventListener('keydown', (event) => {
      if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation();
      wipe(state.at + steps[event.key] * (event.shiftKey ? 5 : 1));
    });
  }
  for (const button of all('[data-wipe]')) button.addEventListener('click', () => { setMode('curtain'); wipe(Number(button.dataset.wipe)); });

  // Switching back and forth in place shows small changes better than a divider does.
  function blink() {
    setMode('curtain');
    wipe(state.at === 0 ? 100 : 0);
  }

  function setMode(mode) {
    if (mode === state.mode) return;
    state.mode = mode;
    for (const radio of all('input[name="mode"]')) radio.checked = radio.value === mode;
    one('#pane-second').hidden = mode !== 'sides';
    one('#viewer').classList.toggle('two', mode === 'sides');
    if (mode === 'sides' && panes.length < 2) {
      const second = openPane(one('#pane-second'), 'after');
      second.whenReady = () => { lead(); syncFrom(panes[0]); };
    }
    lead();
    // OpenSeadragon keeps place and scale when a picture gets another width.
    for (const pane of panes) pane.viewer.forceResize();
    showWipe();
    refresh();
  }

  // --- drawn over the picture: outlines, numbers, cells ----------------------------------------------------------------

  for (const region of regions.values()) region.path = new Path2D(region.outline);

  // Pictures of neighbours overlap: a cell is drawn with the first of the regions around which it was found.
  const around = data.regions.map(({ box: [y0, x0, y1, x1] }) => [y0 - data.context_px, x0 - data.context_px, y1 + data.context_px, x1 + data.context_px]);
  const isAround = ([y0, x0, y1, x1], x, y) => x >= x0 && x < x1 && y >= y0 && y < y1;

  function cellPath(cells, earlier) {
    const path = new Path2D();
    for (const steps of cells) {
      let [x, y] = steps;
      if (earlier.some((box) => isAround(box, x, y))) continue;
      path.moveTo(x + 0.5, y + 0.5);
      for (let i = 2; i < steps.length; i += 2) {
        x += steps[i];
        y += steps[i + 1];
        path.lineTo(x + 0.5, y + 0.5);
      }
      path.closePath();
    }
    return path;
  }

  const synthetic = new Path2D();
  for (const region of data.regions) if (!region.left) synthetic.addPath(region.path, new DOMMatrix([0.5, 0, 0, 0.5, 0, 0]));

  const colours = {
    accept: '#7fd88f', leave: '#d0d0d0', redraw: '#8fc4ff', badge: '#ff9d47', cell: '#0a84ff', synthetic: '#d01884', line: '#ff8a1f', left: '#c8c8c8',
  };

  function layOut(pane) {
    clip(pane);
    const { canvas, viewer } = pane;
    const size = viewer.viewport.getContainerSize();
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(size.x * ratio) || canvas.height !== Math.round(size.y * ratio)) {
      canvas.width = Math.round(size.x * ratio);
      canvas.height = Math.round(size.y * ratio);
    }
    const scale = pixelsOf(pane);
    const corner = viewer.viewport.pixelFromPoint(new Point(0, 0), true);
    const context = canvas.getContext('2d');
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const divider = pane.sides === 'after' ? 0 : state.mode === 'sides' ? size.x : size.x * state.at / 100;
    const seen = data.regions.filter((region) => {
      const [y0, x0, y1, x1] = region.box;
      return corner.x + x1 * scale > -20 && corner.x + x0 * scale < size.x + 20 && corner.y + y1 * scale > -20 && corner.y + y0 * scale < size.y + 20;
    });
    for (const side of ['before', 'after']) {
      const [from, to] = side === 'before' ? [0, divider] : [divider, size.x];
      if (to - from < 1) continue;
      context.save();
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.beginPath();
      context.rect(from, 0, to - from, size.y);
      context.clip();
      context.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * corner.x, ratio * corner.y);
      drawSide(context, side, seen, scale);
      context.restore();
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (state.layers.has('outlines')) drawNumbers(context, seen, scale, corner, size);
    if (state.pixel?.graft) drawSource(context, state.pixel, scale, corner);
    if (wiper && pane.sides === 'both') wiper.style.left = `${state.at}%`;
    // A side that is not seen is not named.
    if (pane.sides === 'both') {
      one('.tag.left', pane.element).hidden = state.mode === 'curtain' && state.at === 0;
      one('.tag.right', pane.element).hidden = state.mode === 'curtain' && state.at === 100;
    }
    if (pane === panes[0]) drawRuler(scale);
    pane.drawn = { scale, corner };
  }

  function drawSide(context, side, seen, scale) {
    const isStrong = state.layers.has('outlines');
    for (const region of seen) {
      if (state.layers.has('cells') && region.cells && scale > 0.2) drawCells(context, region, side, scale);
      // What is synthetic is always framed; where there is nothing synthetic, only while outlines are asked for.
      if (side === 'before' && !isStrong) continue;
      const isChosen = region.number === state.chosen;
      context.save();
      context.scale(0.5, 0.5); // paths are in half pixels
      context.lineJoin = 'round';
      if (side === 'before') context.setLineDash([10 / scale, 7 / scale]);
      if (isStrong) {
        context.strokeStyle = 'rgb(20 10 0 / .55)';
        context.lineWidth = (isChosen ? 5 : 3.4) * 2 / scale;
        context.stroke(region.path);
      }
      context.strokeStyle = region.left ? colours.left : colours.line;
      context.lineWidth = (isStrong && isChosen ? 2.6 : 1.6) * 2 / scale;
      context.stroke(region.path);
      context.restore();
    }
  }

  function drawCells(context, region, side, scale) {
    region.drawn ??= {};
    region.drawn[side] ??= cellPath(region.cells[side], around.slice(0, data.regions.indexOf(region)).filter((box, i) => data.regions[i].cells));
    context.lineWidth = 1.4 / scale;
    context.strokeStyle = colours.cell;
    context.stroke(region.drawn[side]);
    if (side === 'before') return;
    context.save();
    context.clip(synthetic, 'evenodd');
    context.strokeStyle = colours.synthetic;
    context.stroke(region.drawn[side]);
    context.restore();
  }

  // The chosen region's number first, then those that are flagged; one that would cover another is left out.
  function drawNumbers(context, seen, scale, corner, size) {
    const taken = [];
    const ranked = [...seen].sort((a, b) => (b.number === state.chosen) - (a.number === state.chosen));
    context.font = '700 12px system-ui, sans-serif';
    context.textAlign = 'center';
    context.textBaseline = 'middle';
    for (const region of ranked) {
      const [y0, x0, , x1] = region.box;
      const marks = { accept: ' ✓', leave: ' ✕', redraw: ' ↻', waits: ' ◌' };
      const decision = state.decisions.get(region.number) ?? '';
      const text = `${region.number}${marks[decision] ?? ''}${region.flags.length && !decision ? ' !' : ''}`;
      const wide = context.measureText(text).width + 14;
      const x = Math.min(Math.max(corner.x + (x0 + x1) / 2 * scale, wide / 2 + 2), size.x - wide / 2 - 2);
      const y = Math.max(corner.y + y0 * scale - 13, 12);
      if (taken.some((other) => Math.abs(other.x - x) < (other.wide + wide) / 2 + 1 && Math.abs(other.y - y) < 20)) continue;
      taken.push({ x, y, wide, number: region.number });
      context.beginPath();
      context.roundRect(x - wide / 2, y - 9.5, wide, 19, 9.5);
      context.fillStyle = region.number === state.chosen ? '#fff' : colours[decision] ?? colours.badge;
      context.fill();
      context.lineWidth = region.number === state.chosen ? 2.5 : 1;
      context.strokeStyle = region.number === state.chosen ? '#b24400' : 'rgb(20 10 0 / .75)';
      context.stroke();
      context.fillStyle = '#1d1000';
      context.fillText(text, x, y + 0.5);
    }
    return taken;
  }

  // --- where a mended pixel comes from ----------------------------------------------------------------------------------

  const originNote = { text: one('#origin-text'), previous: one('#graft-previous'), next: one('#graft-next'), source: one('#graft-source') };

  // The mended pixel at a place of a pane: its region, and the copy that it belongs to. Nothing is mended on the side of the scan.
  function pixelAt(pane, position) {
    const { scale, corner } = pane.drawn;
    const isAfter = pane.sides === 'after' || (state.mode === 'curtain' && position.x >= pane.canvas.clientWidth * state.at / 100);
    const [x, y] = [Math.floor((position.x - corner.x) / scale), Math.floor((position.y - corner.y) / scale)];
    if (!isAfter) return null;
    const context = pane.canvas.getContext('2d');
    context.setTransform(1, 0, 0, 1, 0, 0);
    const holds = (path) => context.isPointInPath(path, 2 * x + 1, 2 * y + 1, 'evenodd');
    const region = data.regions.find(({ left, path, box: [y0, x0, y1, x1] }) => !left && y >= y0 && y < y1 && x >= x0 && x < x1 && holds(path));
    if (!region) return null;
    const graft = graftsOf(region).find((one) => y >= one.y && y < one.y + one.side && x >= one.x && x < one.x + one.side && holds(one.path));
    return { region, x, y, graft: graft ?? null };
  }

  function graftsOf(region) {
    region.copies ??= (region.grafts ?? []).map(([y, x, sourceY, sourceX, side, mirrored, down, across, outline]) => ({
      y, x, sourceY, sourceX, side, mirrored: Boolean(mirrored), middle: { y: y + down, x: x + across }, path: new Path2D(outline),
    }));
    return region.copies;
  }

  function sourceOf({ x, y, graft }) {
    const across = x - graft.x;
    return { x: graft.sourceX + (graft.mirrored ? graft.side - 1 - across : across), y: graft.sourceY + y - graft.y };
  }

  function sentenceOf(pixel) {
    const { region, graft } = pixel;
    if (region.grafts === null && region.graft_count) {
      return `Region ${region.number}: this page has no room for the sources of its ${grouped(region.graft_count)} copies. The table labels/origin/grafts of the corrected section has them.`;
    }
    if (!graft) return `Region ${region.number}: drawn by the network.`;
    const source = sourceOf(pixel);
    const um = (px) => grouped(px * data.pixel_size_um);
    const away = um(Math.hypot(source.x - pixel.x, source.y - pixel.y));
    return `Region ${region.number}: copied from x ${um(source.x)} µm, y ${um(source.y)} µm, ${away} µm away${graft.mirrored ? ', mirrored' : ''}.`;
  }

  function tellPixel(pixel, { isPinned = false } = {}) {
    if (!data.origin) return;
    Object.assign(state, { pixel, isPinned: isPinned && pixel !== null, atSource: false });
    showPixel();
    for (const pane of panes) if (pane.ready) layOut(pane);
  }

  function showPixel() {
    const text = state.pixel ? sentenceOf(state.pixel) : 'Point at a mended pixel, or tap it, to read whether it was drawn or copied. A copy is real tissue in the wrong place.';
    if (originNote.text.textContent !== text) originNote.text.textContent = text;
    originNote.source.disabled = !state.pixel?.graft;
    originNote.source.textContent = state.atSource ? 'back to the copy' : 'see the source';
  }

  // The copies of the chosen region one after the other, for hands without a mouse.
  function stepGraft(by) {
    if (!data.origin) return;
    if (!state.layers.has('origin')) flip('origin');
    const region = regions.get(state.chosen) ?? data.regions.find((one) => one.grafts?.length);
    if (!region) return;
    if (region.number !== state.chosen) choose(region.number);
    const copies = graftsOf(region);
    if (!copies.length) {
      tellPixel({ region, x: region.box[1], y: region.box[0], graft: null }, { isPinned: true });
      return;
    }
    const index = copies.indexOf(state.pixel?.graft);
    const graft = copies[index < 0 ? (by > 0 ? 0 : copies.length - 1) : (index + by + copies.length) % copies.length];
    tellPixel({ region, ...graft.middle, graft }, { isPinned: true });
    bringIntoView(graft.middle);
  }

  function seeSource() {
    const { pixel } = state;
    if (!pixel?.graft) return;
    const to = state.atSource ? pixel : sourceOf(pixel);
    Object.assign(state, { isPinned: true, atSource: !state.atSource });
    showPixel();
    lead().panTo(new Point((to.x + 0.5) / width, (to.y + 0.5) / width), still);
    refresh();
  }

  function bringIntoView({ x, y }) {
    const place = new Point((x + 0.5) / width, (y + 0.5) / width);
    if (!panes[0].viewer.viewport.getBounds().containsPoint(place)) lead().panTo(place, still);
  }

  // The copy and its source, and a line from pixel to pixel, white on dark: seen on tissue and on colours.
  function drawSource(context, pixel, scale, corner) {
    const { graft } = pixel;
    const at = ({ x, y }) => [corner.x + (x + 0.5) * scale, corner.y + (y + 0.5) * scale];
    const [from, to] = [at(sourceOf(pixel)), at(pixel)];
    for (const [colour, wide] of [['rgb(0 0 0 / .75)', 5], ['#fff', 2]]) {
      context.save();
      context.strokeStyle = colour;
      context.lineWidth = wide;
      context.beginPath();
      context.moveTo(...from);
      context.lineTo(...to);
      context.stroke();
      context.translate(corner.x, corner.y);
      context.scale(scale / 2, scale / 2); // paths are in half pixels
      context.lineWidth = wide * 2 / scale;
      context.stroke(graft.path);
      context.translate(2 * (graft.sourceX - graft.x), 2 * (graft.sourceY - graft.y));
      if (graft.mirrored) {
        context.translate(2 * (2 * graft.x + graft.side), 0);
        context.scale(-1, 1);
      }
      context.stroke(graft.path);
      context.restore();
    }
    context.font = '600 12px system-ui, sans-serif';
    context.textAlign = 'left';
    context.textBaseline = 'middle';
    for (const [word, [x, y]] of [['source', from], ['copy', to]]) {
      context.lineWidth = 4;
      context.strokeStyle = 'rgb(0 0 0 / .75)';
      context.strokeText(word, x + 9, y);
      context.fillStyle = '#fff';
      context.fillText(word, x + 9, y);
      context.beginPath();
      context.arc(x, y, 4, 0, 2 * Math.PI);
      context.stroke();
      context.fill();
    }
  }

  // A round length: the longest of 1, 2, 5 times a power of ten that fits.
  function drawRuler(scale) {
    const pixelsAUm = scale / data.pixel_size_um;
    const longest = 180 / pixelsAUm;
    const decade = 10 ** Math.floor(Math.log10(longest));
    const length = [5, 2, 1].map((step) => step * decade).find((step) => step <= longest) ?? decade;
    const text = length >= 1000 ? `${length / 1000} mm` : length >= 1 ? `${length} µm` : `${length * 1000} nm`;
    const ruler = one('#ruler');
    ruler.style.width = `${length * pixelsAUm}px`;
    ruler.firstElementChild.textContent = text;
    ruler.setAttribute('aria-label', `Scale bar: ${text}`);
  }

  function regionAt(pane, position) {
    const { scale, corner } = pane.drawn;
    const [x, y] = [(position.x - corner.x) / scale, (position.y - corner.y) / scale];
    const context = pane.canvas.getContext('2d');
    context.setTransform(1, 0, 0, 1, 0, 0);
    const near = (region) => {
      const [y0, x0, y1, x1] = region.box;
      const margin = 8 / scale;
      const inBox = x > x0 - margin && x < x1 + margin && y > y0 - 26 / scale && y < y1 + margin;
      if (!inBox) return Infinity;
      if (context.isPointInPath(region.path, 2 * x, 2 * y, 'evenodd')) return 0;
      const onBadge = y < y0 && Math.abs(x - (x0 + x1) / 2) < 24 / scale;
      return onBadge || Math.max(x1 - x0, y1 - y0) * scale < 40 ? 1 + Math.hypot(x - (x0 + x1) / 2, y - (y0 + y1) / 2) : Infinity;
    };
    const found = data.regions.map((region) => [near(region), region.number]).filter(([distance]) => distance < Infinity);
    return found.length ? found.reduce((a, b) => (b[0] < a[0] ? b : a))[1] : null;
  }

  function refresh() {
    for (const pane of panes) {
      if (!pane.ready) continue;
      layOut(pane);
      pane.viewer.forceRedraw();
    }
    tellBusy();
  }

  // --- layers -----------------------------------------------------------------------------------------------------------

  const boxes = new Map(all('input[data-layer]').map((box) => [box.dataset.layer, box]));
  function applyLayer(name, box) {
    if (box.checked) state.layers.add(name);
    else state.layers.delete(name);
    one('#viewer').classList.toggle(`with-${name}`, box.checked);
    if (name === 'origin') tellPixel(null);
    refresh();
  }
  for (const [name, box] of boxes) {
    box.addEventListener('change', () => applyLayer(name, box));
    applyLayer(name, box);
  }
  function flip(name) {
    const box = boxes.get(name);
    if (!box) return;
    box.checked = !box.checked;
    applyLayer(name, box);
  }

  // --- the chosen region --------------------------------------------------------------------------------------------------

  const thin = '\u202f';
  const grouped = (number) => Math.round(number).toString().replace(/\B(?=(\d{3})+$)/g, thin);
  const digits = (number, places) => number.toFixed(places);
  const known = (value, say) => (value === null || value === undefined ? '–' : say(value));
  const area = (um2) => (um2 < 10000 ? `${grouped(um2)} µm²` : `${Number((um2 / 1e6).toPrecision(3))} mm²`);
  const percent = (share) => `${Number((share * 100).toPrecision(2))} %`;
  const seconds = (s) => (s < 10 ? `${digits(s, 1)} s` : s < 600 ? `${Math.round(s)} s` : `${Math.round(s / 60)} min`);
  const pair = (inside, rim, say, unit = '') => `${known(inside, say)}${unit} inside, ${known(rim, say)} in the rim`;

  function factsOf(region) {
    const [y0, x0, y1, x1] = region.box;
    const facts = [
      ['Size', `${area(region.area_um2)}, ${grouped(x1 - x0)} × ${grouped(y1 - y0)} px`],
      ['Centre', `x ${grouped(region.x_um)} µm, y ${grouped(region.y_um)} µm`],
      ['Of the section', percent(region.share)],
    ];
    if (region.left) return facts;
    facts.push(
      ['Cell density', pair(region.density_inside, region.density_rim, grouped, ' /mm²')],
      ['Cell size', pair(region.area_inside_um2, region.area_rim_um2, grouped, ' µm²')],
      ['Cells', pair(region.cells_inside, region.cells_rim, String)],
      ['Grey mean', known(region.shift, (shift) => `${shift < 0 ? '−' : '+'}${digits(Math.abs(shift), 2)} of the rim’s deviation`)],
      ['Grey spread', known(region.spread, (spread) => `${digits(spread, 2)} × that of the rim`)],
      ['Seam', known(region.seam, (seam) => `step at the outline ${digits(seam, 2)} × that in the rim`)],
    );
    facts.push(
      ['Direction', `${direction(region.degrees_inside, region.coherence_inside)} inside, ${direction(region.degrees_rim, region.coherence_rim)} in the rim`],
      ['Depth', `${grouped(region.depth_um)} µm from intact tissue at most`],
    );
    if (data.uncertainty) facts.push(['Uncertainty', known(region.uncertainty, (grey) => `${digits(grey, 1)} grey values over ${data.uncertainty.samples} fillings`)]);
    if (data.origin) facts.push(...originFacts(region));
    facts.push(['Mended by', `${data.sampler}, ${grouped(region.calls)} network calls${region.seconds === null ? '' : `, ${seconds(region.seconds)}`}`]);
    if (region.draw) facts.push(['Drawn again', region.draw === 1 ? 'once' : `${region.draw} times`]);
    return facts;
  }

  // Degrees of structures without a prevailing direction say nothing.
  function direction(degrees, coherence) {
    return coherence === null ? '–' : coherence < 0.1 ? 'none' : `${Math.round(degrees) % 180}° (coherence ${digits(coherence, 2)})`;
  }

  function originFacts(region) {
    if (!region.graft_count) return [['Origin', 'all drawn by the network']];
    const copies = `${grouped(region.graft_count)} ${region.graft_count === 1 ? 'copy' : 'copies'}`;
    return [
      ['Origin', `${copies}: ${percent(copiedShare(region))} copied, ${percent(1 - copiedShare(region))} drawn by the network`],
      ['Farthest source', `${grouped(region.farthest_um)} µm away`],
    ];
  }

  function copiedShare(region) {
    return region.copied_px / ((region.copied_px + region.drawn_px) || 1);
  }

  function textElement(name, text) {
    const element = document.createElement(name);
    element.textContent = text;
    return element;
  }

  function showFacts(region) {
    one('#hint').hidden = true;
    one('#chosen').hidden = false;
    one('#chosen-title').textContent = `Region ${region.number}${region.left ? ', left as scanned' : ''}`;
    one('#chosen-flags').replaceChildren(...region.flags.map(([, sentence]) => textElement('li', sentence)));
    one('#chosen-coarse').hidden = region.native;
    const facts = factsOf(region).flatMap(([name, text]) => [textElement('dt', name), textElement('dd', text)]);
    if (region.native) {
      const dd = document.createElement('dd');
      for (const side of ['before', 'after']) {
        const link = textElement('a', side);
        link.href = `${data.folder}/regions/${region.number}-${side}.png`;
        dd.append(link, side === 'before' ? ', ' : '');
      }
      facts.push(textElement('dt', 'Pictures'), dd);
    }
    if (!region.cells && !region.left) facts.push(textElement('dt', 'Outlines of cells'), textElement('dd', 'too many for this page'));
    one('#chosen-facts').replaceChildren(...facts);
    one('#about').scrollTop = 0;
  }

  function choose(number, { moves = true, tells = true } = {}) {
    const region = regions.get(number);
    if (!region) return;
    state.chosen = number;
    showFacts(region);
    for (const item of all('#regions li')) {
      const isChosen = Number(item.dataset.region) === number;
      item.classList.toggle('current', isChosen);
      if (isChosen) one('a', item).setAttribute('aria-current', 'true');
      else one('a', item).removeAttribute('aria-current');
      if (isChosen) reveal(item);
    }
    for (const article of all('.deciding')) article.classList.toggle('current', Number(article.dataset.of) === number);
    if (tells) setHash(`#region-${number}`);
    if (moves) goTo(region);
    refresh();
  }

  // Within the list only: the page itself stays where it is.
  function reveal(item) {
    const list = item.parentElement;
    const [a, b] = [item.getBoundingClientRect(), list.getBoundingClientRect()];
    if (a.top < b.top) list.scrollTop -= b.top - a.top + 8;
    if (a.bottom > b.bottom) list.scrollTop += a.bottom - b.bottom + 8;
  }

  function setHash(hash) {
    try {
      window.history.replaceState(null, '', hash);
    } catch {
      window.location.replace(hash);
    }
  }

  // A small region is enlarged fourfold at most, so that something of its surroundings is seen.
  function goTo(region, immediately = still) {
    const [y0, x0, y1, x1] = region.box;
    const margin = Math.max(data.context_px, 0.06 * Math.max(y1 - y0, x1 - x0));
    const [pane] = panes;
    const wide = Math.max(x1 - x0 + 2 * margin, pane.element.clientWidth / 4);
    const tall = Math.max(y1 - y0 + 2 * margin, pane.element.clientHeight / 4);
    const [x, y] = [(x0 + x1) / 2 - wide / 2, (y0 + y1) / 2 - tall / 2];
    lead().fitBounds(new Rect(x / width, y / width, wide / width, tall / width), immediately);
  }

  function step(by) {
    if (!order.length) return;
    const index = order.indexOf(state.chosen);
    choose(order[index < 0 ? (by > 0 ? 0 : order.length - 1) : Math.min(Math.max(index + by, 0), order.length - 1)]);
  }

  for (const link of all('a[href^="#region-"]')) {
    link.addEventListener('click', (event) => {
      event.preventDefault();
      choose(Number(link.hash.slice('#region-'.length)));
    });
  }
  one('#begin')?.addEventListener('click', () => step(1));
  one('#previous')?.addEventListener('click', () => step(-1));
  one('#next')?.addEventListener('click', () => step(1));
  originNote.previous?.addEventListener('click', () => stepGraft(-1));
  originNote.next?.addEventListener('click', () => stepGraft(1));
  originNote.source?.addEventListener('click', seeSource);
  one('#zoom-in').addEventListener('click', () => lead().zoomBy(1.6).applyConstraints());
  one('#zoom-out').addEventListener('click', () => lead().zoomBy(1 / 1.6).applyConstraints());
  one('#whole').addEventListener('click', () => lead().goHome(still));
  for (const radio of all('input[name="mode"]')) radio.addEventListener('change', () => setMode(radio.value));

  document.addEventListener('cytomend:decision', ({ detail }) => {
    state.decisions.set(detail.region, detail.decision);
    const item = one(`#regions li[data-region="${Number(detail.region)}"]`);
    if (item) item.dataset.decision = detail.decision;
    refresh();
  });

  function fromHash(immediately) {
    const number = Number(window.location.hash.match(/^#region-(\d+)$/)?.[1]);
    if (!regions.has(number)) return false;
    choose(number, { moves: false, tells: false });
    goTo(regions.get(number), immediately);
    return true;
  }
  window.addEventListener('hashchange', () => { if (fromHash(still)) toDesk(); });

  // The browser itself goes to the region's line in the list, and again when all has loaded; the picture is what counts.
  function toDesk() {
    const go = () => window.requestAnimationFrame(() => {
      one('#desk').scrollIntoView({ block: 'start' });
      reveal(one('#regions .current'));
      root.dataset.ready = 'yes';
    });
    if (document.readyState === 'complete') go();
    else window.addEventListener('load', () => window.setTimeout(go));
  }

  // --- the table of all regions: made when it is asked for -------------------------------------------------------------------

  const whole = (name) => (region) => [region[name], known(region[name], grouped)];
  const part = (name) => (region) => [region[name], known(region[name], (value) => digits(value, 2))];
  const columns = [
    ['region', whole('number')],
    ['flags', (region) => [region.flags.length, region.flags.map(([key]) => key).join(', ')]],
    ['area (µm²)', whole('area_um2')],
    ['centre x (µm)', whole('x_um')],
    ['centre y (µm)', whole('y_um')],
    ['width (px)', (region) => [region.box[3] - region.box[1], grouped(region.box[3] - region.box[1])]],
    ['height (px)', (region) => [region.box[2] - region.box[0], grouped(region.box[2] - region.box[0])]],
    ['share', (region) => [region.share, percent(region.share)]],
    ['cells/mm² inside', whole('density_inside')],
    ['in the rim', whole('density_rim')],
    ['cell µm² inside', whole('area_inside_um2')],
    ['in the rim', whole('area_rim_um2')],
    ['seam', part('seam')],
    ['spread', part('spread')],
    ['shift', part('shift')],
    ...(data.uncertainty ? [['uncertainty (grey values)', part('uncertainty')]] : []),
    ...(data.origin ? [
      ['copies', whole('graft_count')],
      ['copied', (region) => (region.left ? [null, '–'] : [copiedShare(region), percent(copiedShare(region))])],
      ['drawn', (region) => (region.left ? [null, '–'] : [1 - copiedShare(region), percent(1 - copiedShare(region))])],
      ['farthest source (µm)', whole('farthest_um')],
    ] : []),
    ['windows', whole('windows')],
    ['calls', whole('calls')],
    ['seconds', whole('seconds')],
  ];

  one('#all-regions')?.addEventListener('toggle', () => {
    const table = one('#table');
    if (table.tBodies[0].rows.length) return;
    columns.forEach(([name], index) => {
      const head = document.createElement('th');
      head.scope = 'col';
      head.className = 'number';
      const button = textElement('button', name);
      button.type = 'button';
      button.addEventListener('click', () => sortTable(table, head, index));
      head.append(button);
      table.tHead.rows[0].append(head);
    });
    table.tBodies[0].append(...data.regions.map((region) => {
      const row = document.createElement('tr');
      row.append(...columns.map(([, read], index) => {
        const [value, text] = read(region);
        const cell = textElement('td', index ? text : '');
        cell.className = 'number';
        cell.dataset.value = value ?? '';
        if (!index) {
          const link = textElement('a', text);
          link.href = `#region-${region.number}`;
          cell.append(link);
        }
        return cell;
      }));
      return row;
    }));
  });

  function sortTable(table, head, index) {
    const descending = head.getAttribute('aria-sort') === 'ascending';
    const value = (row) => (row.cells[index].dataset.value === '' ? -Infinity : Number(row.cells[index].dataset.value));
    const rows = [...table.tBodies[0].rows].sort((a, b) => (value(a) - value(b) || 0) * (descending ? -1 : 1));
    table.tBodies[0].append(...rows);
    for (const other of all('th', table)) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
  }

  // --- keys ---------------------------------------------------------------------------------------------------------------------

  const help = one('#help');
  one('#ask').addEventListener('click', () => help.showModal());
  const keys = {
    j: () => step(1),
    k: () => step(-1),
    b: blink,
    s: () => setMode(state.mode === 'sides' ? 'curtain' : 'sides'),
    o: () => flip('outlines'),
    t: () => flip('tint'),
    c: () => flip('cells'),
    u: () => flip('uncertainty'),
    g: () => flip('origin'),
    ',': () => stepGraft(-1),
    '.': () => stepGraft(1),
    v: seeSource,
    0: () => lead().goHome(still),
    '+': () => one('#zoom-in').click(),
    '-': () => one('#zoom-out').click(),
    '?': () => help.showModal(),
  };
  const arrows = { ArrowRight: () => step(1), ArrowLeft: () => step(-1) };

  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || one('dialog[open]')) return;
    if (event.target.matches?.('input[type="search"], input[type="text"], textarea')) {
      if (event.key === 'Escape') event.target.blur();
      return;
    }
    const isElsewhere = event.target.closest?.('.sea, input, [role="slider"]');
    const inSea = event.target.closest?.('.sea');
    const action = (inSea && /^[-+0]$/.test(event.key) ? undefined : keys[event.key]) ?? (isElsewhere ? undefined : arrows[event.key]);
    if (!action) return;
    event.preventDefault();
    action();
  });

  // --- begin ----------------------------------------------------------------------------------------------------------------------

  const first = openPane(one('#pane-first'), 'both');
  first.whenReady = () => {
    lead().goHome(true);
    wipe(50);
    if (fromHash(true)) toDesk();
    else root.dataset.ready = 'yes';
  };
  window.addEventListener('resize', refresh);
}
