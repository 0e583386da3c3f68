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
function film(cell) { return (cell && cell.video && cell.video.url) || ''; }

// A picture, and over it its video once that can be shown.
function show(image, video, cell) {
  setSource(image, source(cell));
  setSource(video, film(cell));
  image.classList.toggle('behind', !!film(cell) && video.readyState >= 2);
}
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
  Object.assign(make('video', '', frame), { muted: true, playsInline: true, preload: 'auto' });
  make('div', 'note', frame);
  make('i', '', make('div', 'track', figure));
  const status = make('div', 'status', figure);
  make('span', 'state', status);
  make('span', 'speed', status);
  make('a', 'save', status);
  make('div', 'remark', figure);
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
  show(image, $('video', node), cell);
  const waiting = cell.state === 'queued' ? 'waiting' : cell.state === 'loading' ? 'loading the model' : '';
  $('.note', node).textContent = cell.reason || (source(cell) ? '' : cell.state === 'stopped' ? 'stopped before it began' : waiting);
  const share = cell.state === 'done' ? 1 : cell.total ? cell.step / cell.total : 0;
  $('.track i', node).style.width = (cell.state === 'loading' ? 100 : 100 * share) + '%';
  const steps = cell.step + '/' + cell.total;
  $('.state', node).textContent = ['step', 'stopped', 'done'].includes(cell.state) ? STATES[cell.state] + ' ' + steps : STATES[cell.state] || '';
  $('.speed', node).textContent = cell.speed || '';
  const save = $('.save', node), url = cell.state === 'done' ? film(cell) || source(cell) : '';
  save.textContent = url ? (film(cell) ? 'MP4' : 'PNG') : '';
  if (url) { save.href = url; save.download = cell.key + (film(cell) ? '.mp4' : '.png'); save.title = 'Save "' + cell.label + '"'; } else save.removeAttribute('href');
  $('.remark', node).textContent = cell.remark || '';
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
  $('.cells').classList.toggle('many', now.cells.length > 3);
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
  cue();
}

// All videos that are in sight run on one clock, the first one's; a frame is shown by the middle of its time.
const reel = { frame: 0, playing: false, known: '' };
function players() { return [...element.querySelectorAll('video[src]')].filter(video => video.offsetParent); }
function frames() { return Math.max(1, value().frames || 1); }
function timeOf(frame) { return (frame + .5) / (value().fps || 16); }

function cue() {
  const now = value(), films = now.cells.map(film), all = films.filter(Boolean);
  $('.transport').hidden = !all.length;
  $('.seek').max = frames() - 1;
  if (!all.length) { reel.playing = false; reel.frame = 0; }
  const ready = all.length && now.cells.every(cell => film(cell) || !['queued', 'loading', 'step', 'decoding'].includes(cell.state));
  if (ready && reel.known !== all.join()) {  // a new set is complete: play it, from its beginning
    reel.known = all.join();
    reel.frame = 0;
    if (!still) play();
  }
  tell();
}

function tell() {
  $('.play').textContent = reel.playing ? 'Pause' : 'Play';
  $('.seek').value = reel.frame;
  $('.at').textContent = (reel.frame + 1) + ' / ' + frames();
}

function seek(frame) {
  reel.playing = false;
  reel.frame = Math.min(frames() - 1, Math.max(0, frame));
  players().forEach(video => { video.pause(); video.currentTime = timeOf(reel.frame); });
  tell();
}

function play() {
  if (reel.frame >= frames() - 1) reel.frame = 0;
  const running = reel.playing;
  reel.playing = true;
  players().forEach(video => { video.currentTime = timeOf(reel.frame); video.play().catch(() => {}); });
  tell();
  if (!running) requestAnimationFrame(tick);
}

function tick() {
  if (!reel.playing || !element.isConnected) return;
  const [first, ...others] = players();
  if (first && first.readyState >= 2) {
    const end = timeOf(frames() - 1);
    if (first.ended || first.currentTime >= end + .25 / (value().fps || 16)) {
      [first, ...others].forEach(video => { video.currentTime = timeOf(0); video.play().catch(() => {}); });
    } else {
      if (first.paused) first.play().catch(() => {});
      others.forEach(video => {
        if (!video.seeking && Math.abs(video.currentTime - first.currentTime) > .5 / (value().fps || 16)) video.currentTime = first.currentTime;
        if (video.paused && !video.ended) video.play().catch(() => {});
      });
    }
    reel.frame = Math.min(frames() - 1, Math.floor(first.currentTime * (value().fps || 16)));
    tell();
  }
  requestAnimationFrame(tick);
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
  if (single && !(a && b)) { for (const side of ['under', 'over']) show($('img.' + side), $('video.' + side), null); $('.stage .left').textContent = $('.stage .other').textContent = ''; }
  if (single && a && b) {
    const under = $('img.under'), over = $('img.over'), overs = element.querySelectorAll('.over');
    show(under, $('video.under'), view.name === 'wipe' ? b : a);
    show(over, $('video.over'), view.name === 'wipe' ? a : b);
    $('.handle').style.left = view.wipe + '%';
    $('.stage .frame').setAttribute('aria-valuenow', Math.round(view.wipe));
    $('.stage .frame').style.filter = view.name === 'difference' ? 'brightness(' + $('.gain input').value + ')' : '';
    $('.stage .left').textContent = a.label;
    $('.stage .other').textContent = b.label;
    const turn = () => {
      const shown = over.style.opacity === '0';
      overs.forEach(node => { node.style.opacity = shown ? '' : '0'; });
      $('.stage .left').style.opacity = shown ? .35 : 1;
      $('.stage .other').style.opacity = shown ? 1 : .35;
    };
    if (view.name === 'flicker') {
      if (still) $('.stage .frame').onclick = turn;
      else if (!view.timer) { turn(); view.timer = setInterval(turn, 650); }  // kept while updates arrive
    } else {
      overs.forEach(node => { node.style.opacity = ''; });
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
    frame.querySelectorAll('img, video').forEach(picture => { picture.style.transform = transform; });
  });
  // the cut is made in the picture's own box, before the zoom moves it
  const cut = Math.min(100, Math.max(0, 100 * (view.wipe / 100 - view.x) / view.zoom));
  element.querySelectorAll('.over').forEach(node => { node.style.clipPath = view.name === 'wipe' ? 'inset(0 ' + (100 - cut) + '% 0 0)' : ''; });
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

function setView(name) {
  view.name = name;
  stage();
  if (reel.playing) play(); else seek(reel.frame);  // other videos are in sight now
}
function reset() { view.zoom = 1; view.x = view.y = 0; place(); }

element.querySelectorAll('[data-view]').forEach(button => button.addEventListener('click', () => setView(button.dataset.view)));
for (const side of ['a', 'b']) $('select.' + side).addEventListener('change', event => { view[side] = event.target.value; stage(); });
$('.play').addEventListener('click', () => reel.playing ? seek(reel.frame) : play());
$('.back').addEventListener('click', () => seek(reel.frame - 1));
$('.next').addEventListener('click', () => seek(reel.frame + 1));
$('.seek').addEventListener('input', event => seek(Number(event.target.value)));
element.addEventListener('loadeddata', event => {  // media events do not bubble, hence the capture
  if (event.target.tagName !== 'VIDEO') return;
  event.target.parentNode.querySelectorAll('img').forEach(image => { if (image.className.split(' ')[0] === event.target.className || !event.target.className) image.classList.add('behind'); });
  if (reel.playing) play(); else event.target.currentTime = timeOf(reel.frame);
}, true);
$('.gain input').addEventListener('input', stage);
$('.reset').addEventListener('click', reset);
$('.full').addEventListener('click', () => document.fullscreenElement ? document.exitFullscreen() : element.requestFullscreen());
document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || /input|textarea|select/i.test(event.target.tagName) || !element.isConnected) return;
  const names = { 1: 'side', 2: 'wipe', 3: 'flicker', 4: 'difference' };
  if (names[event.key]) setView(names[event.key]);
  else if (event.key === '0') reset();
  else if (!$('.transport').hidden && [',', '.', ' '].includes(event.key) && event.target.tagName !== 'BUTTON') {
    if (event.key === ' ') { if (reel.playing) seek(reel.frame); else play(); } else seek(reel.frame + (event.key === '.' ? 1 : -1));
    event.preventDefault();
  }
  else if (view.name === 'wipe' && (event.key === 'ArrowLeft' || event.key === 'ArrowRight')) {
    view.wipe = Math.min(100, Math.max(0, view.wipe + (event.key === 'ArrowLeft' ? -2 : 2)));
    stage();
    event.preventDefault();
  }
});
listen($('.stage .frame'));
watch('value', draw);
draw();
