// The comparison bench: draws `props.value` = {cells: [...], hint, aspect}, keeps one zoom for all pictures.
// Everything that came from a person or a model goes through textContent.
const $ = (selector, from = element) => from.querySelector(selector);
const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
const view = { name: 'side', a: null, b: null, wipe: 50, zoom: 1, x: 0, y: 0, timer: null };
const STATES = { queued: 'queued', loading: 'loading the model', step: 'step', decoding: 'decoding', done: 'done', stopped: 'stopped', failed: 'failed' };

function make(tag, name, parent) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (parent) parent.append(node);
  return node;
}

function value() { return props.value && props.value.cells ? props.value : { cells: [], hint: '' }; }
function source(cell) { return cell ? (cell.image && cell.image.url) || cell.preview || '' : ''; }
function setSource(image, url) { if (!url) image.removeAttribute('src'); else if (image.getAttribute('src') !== url) image.src = url; }

function cellNode(key) {
  const found = [...element.querySelectorAll('.cell')].find(node => node.dataset.key === key);
  if (found) return found;
  const figure = make('figure', 'cell', $('.cells'));
  figure.dataset.key = key;
  const caption = make('figcaption', '', figure);
  make('b', 'label', caption);
  make('span', 'cost', caption);
  const frame = make('div', 'frame', figure);
  make('img', '', frame).draggable = false;
  make('div', 'note', frame);
  make('i', '', make('div', 'track', figure));
  const status = make('div', 'status', figure);
  make('span', 'state', status);
  make('span', 'speed', status);
  make('a', 'save', status);
  make('div', 'meters', figure);
  listen(frame);
  return figure;
}

function drawCell(cell, shown) {
  const node = cellNode(cell.key);
  node.className = 'cell ' + cell.state;
  $('.label', node).textContent = cell.label;
  $('.cost', node).textContent = cell.cost || '';
  const image = $('img', node);
  image.alt = cell.label + ', ' + (STATES[cell.state] || cell.state);
  setSource(image, source(cell));
  const waiting = cell.state === 'queued' ? 'waiting' : cell.state === 'loading' ? 'loading the model' : '';
  $('.note', node).textContent = cell.reason || (source(cell) ? '' : cell.state === 'stopped' ? 'stopped before it began' : waiting);
  const share = cell.state === 'done' ? 1 : cell.total ? cell.step / cell.total : 0;
  $('.track i', node).style.width = (cell.state === 'loading' ? 100 : 100 * share) + '%';
  const steps = cell.step + '/' + cell.total;
  $('.state', node).textContent = ['step', 'stopped', 'done'].includes(cell.state) ? STATES[cell.state] + ' ' + steps : STATES[cell.state] || '';
  $('.speed', node).textContent = cell.speed || '';
  const save = $('.save', node), url = cell.state === 'done' ? source(cell) : '';
  save.textContent = url ? 'PNG' : '';
  if (url) { save.href = url; save.download = cell.key + '.png'; save.title = 'Save the picture of "' + cell.label + '"'; } else save.removeAttribute('href');
  const meters = $('.meters', node);
  const rows = cell.meters || [];
  while (meters.children.length > rows.length) meters.lastChild.remove();
  rows.forEach((row, i) => {
    const line = meters.children[i] || make('div', 'meter', meters);
    if (!line.children.length) { make('b', '', line); make('i', '', make('span', '', line)); make('em', '', line); }
    $('b', line).textContent = row.name;
    $('span i', line).style.width = 100 * row.share + '%';
    $('em', line).textContent = row.text;
  });
}

function draw() {
  const now = value(), keys = now.cells.map(cell => cell.key);
  element.style.setProperty('--columns', Math.max(1, now.cells.length));
  element.style.setProperty('--aspect', now.aspect || 1);
  element.querySelectorAll('.cell').forEach(node => { if (!keys.includes(node.dataset.key)) node.remove(); });
  now.cells.forEach(cell => { drawCell(cell); $('.cells').append(cellNode(cell.key)); });
  $('.hint').textContent = now.hint || '';
  for (const side of ['a', 'b']) {
    const select = $('select.' + side);
    if ([...select.options].map(o => o.value).join() !== keys.join()) {
      select.replaceChildren(...now.cells.map(cell => { const o = make('option'); o.value = cell.key; return o; }));
      view[side] = keys.includes(view[side]) ? view[side] : side === 'a' ? keys[0] : keys[keys.length - 1];
      select.value = view[side];
    }
    [...select.options].forEach((option, i) => { option.textContent = now.cells[i].label; });
  }
  stage();
}

function stage() {
  const now = value(), single = view.name !== 'side', a = now.cells.find(c => c.key === view.a), b = now.cells.find(c => c.key === view.b);
  $('.cells').hidden = single;
  $('.stage').hidden = !single;
  $('.stage').className = 'stage ' + view.name;
  $('.pair').classList.toggle('shown', single);
  $('.gain').classList.toggle('shown', view.name === 'difference');
  element.querySelectorAll('[data-view]').forEach(button => button.setAttribute('aria-pressed', button.dataset.view === view.name));
  if (view.name !== 'flicker') { clearInterval(view.timer); view.timer = null; }
  if (single && !(a && b)) { setSource($('.under'), ''); setSource($('.over'), ''); $('.stage .left').textContent = $('.stage .other').textContent = ''; }
  if (single && a && b) {
    const under = $('.under'), over = $('.over');
    setSource(under, source(view.name === 'wipe' ? b : a));
    setSource(over, source(view.name === 'wipe' ? a : b));
    $('.handle').style.left = view.wipe + '%';
    $('.stage .frame').setAttribute('aria-valuenow', Math.round(view.wipe));
    $('.stage .frame').style.filter = view.name === 'difference' ? 'brightness(' + $('.gain input').value + ')' : '';
    $('.stage .left').textContent = a.label;
    $('.stage .other').textContent = b.label;
    const turn = () => {
      const shown = over.style.visibility === 'hidden';
      over.style.visibility = shown ? '' : 'hidden';
      $('.stage .left').style.opacity = shown ? .35 : 1;
      $('.stage .other').style.opacity = shown ? 1 : .35;
    };
    if (view.name === 'flicker') {
      if (still) $('.stage .frame').onclick = turn;
      else if (!view.timer) { turn(); view.timer = setInterval(turn, 650); }  // kept while updates arrive
    } else {
      over.style.visibility = '';
      $('.stage .left').style.opacity = $('.stage .other').style.opacity = 1;
      $('.stage .frame').onclick = null;
    }
  }
  place();
}

function place() {
  const transform = view.zoom === 1 ? '' : 'translate(' + view.x * 100 + '%, ' + view.y * 100 + '%) scale(' + view.zoom + ')';
  element.querySelectorAll('.frame').forEach(frame => {
    frame.classList.toggle('zoomed', view.zoom > 1);
    const image = $('img', frame);
    frame.classList.toggle('sharp', image && image.naturalWidth > 0 && view.zoom * frame.clientWidth / image.naturalWidth >= 4);
    frame.querySelectorAll('img').forEach(picture => { picture.style.transform = transform; });
  });
  // the cut is made in the picture's own box, before the zoom moves it
  const cut = Math.min(100, Math.max(0, 100 * (view.wipe / 100 - view.x) / view.zoom));
  $('.over').style.clipPath = view.name === 'wipe' ? 'inset(0 ' + (100 - cut) + '% 0 0)' : '';
  $('.zoom').textContent = Math.round(view.zoom * 100) + ' %';
}

function zoomAt(frame, event, factor) {
  const box = frame.getBoundingClientRect(), px = (event.clientX - box.left) / box.width, py = (event.clientY - box.top) / box.height;
  const zoom = Math.min(32, Math.max(1, view.zoom * factor)), ratio = zoom / view.zoom;
  view.x = px - (px - view.x) * ratio;
  view.y = py - (py - view.y) * ratio;
  view.zoom = zoom;
  keepInside();
}

function keepInside() {
  view.x = Math.min(0, Math.max(1 - view.zoom, view.x));
  view.y = Math.min(0, Math.max(1 - view.zoom, view.y));
  place();
}

function listen(frame) {
  frame.addEventListener('wheel', event => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey && view.zoom === 1 && event.deltaY > 0) return;  // the page scrolls on
    event.preventDefault();
    zoomAt(frame, event, Math.exp(-event.deltaY / 300));
  }, { passive: false });
  frame.addEventListener('dblclick', event => zoomAt(frame, event, view.zoom < 4 ? 4 : 1 / 32));
  frame.addEventListener('pointerdown', event => {
    const wiping = frame.parentNode.classList.contains('wipe') && !event.shiftKey;
    if (!wiping && view.zoom === 1) return;
    frame.setPointerCapture(event.pointerId);
    const start = { x: event.clientX, y: event.clientY, vx: view.x, vy: view.y };
    const move = e => {
      const box = frame.getBoundingClientRect();
      if (wiping) { view.wipe = Math.min(100, Math.max(0, 100 * (e.clientX - box.left) / box.width)); stage(); return; }
      view.x = start.vx + (e.clientX - start.x) / box.width;
      view.y = start.vy + (e.clientY - start.y) / box.height;
      keepInside();
    };
    if (wiping) move(event);
    const end = () => { frame.removeEventListener('pointermove', move); };
    frame.addEventListener('pointermove', move);
    frame.addEventListener('pointerup', end, { once: true });
    frame.addEventListener('pointercancel', end, { once: true });
  });
}

function setView(name) { view.name = name; stage(); }
function reset() { view.zoom = 1; view.x = view.y = 0; place(); }

element.querySelectorAll('[data-view]').forEach(button => button.addEventListener('click', () => setView(button.dataset.view)));
for (const side of ['a', 'b']) $('select.' + side).addEventListener('change', event => { view[side] = event.target.value; stage(); });
$('.gain input').addEventListener('input', stage);
$('.reset').addEventListener('click', reset);
$('.full').addEventListener('click', () => document.fullscreenElement ? document.exitFullscreen() : element.requestFullscreen());
document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || /input|textarea|select/i.test(event.target.tagName) || !element.isConnected) return;
  const names = { 1: 'side', 2: 'wipe', 3: 'flicker', 4: 'difference' };
  if (names[event.key]) setView(names[event.key]);
  else if (event.key === '0') reset();
  else if (view.name === 'wipe' && (event.key === 'ArrowLeft' || event.key === 'ArrowRight')) {
    view.wipe = Math.min(100, Math.max(0, view.wipe + (event.key === 'ArrowLeft' ? -2 : 2)));
    stage();
    event.preventDefault();
  }
});
listen($('.stage .frame'));
watch('value', draw);
draw();
